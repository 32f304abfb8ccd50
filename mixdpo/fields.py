"""What settings are made of: their types, and the one line that says what is wrong with a value."""

import difflib
import re
from collections.abc import Collection, Mapping
from functools import cache, partial, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, dataclass_transform, get_args, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
    with_config,
)
from pydantic.dataclasses import dataclass, is_pydantic_dataclass
from pydantic_core import ArgsKwargs, PydanticCustomError
from typing_extensions import TypedDict

from mixdpo.errors import UserError

CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True)
TAG = "|"
"""First character of the tag of a union's member, which pydantic puts into the place of a fault."""


@dataclass_transform(frozen_default=True)
def settings(kind: type) -> type:
    """Make a class a frozen dataclass whose fields are checked and described by the docstring under them.

    What cannot be raises `UserError`, one line.
    """
    made = dataclass(frozen=True, config=CONFIG)(kind)
    init = made.__init__

    @wraps(init)
    def in_one_line(self: Any, *given: Any, **named: Any) -> None:
        try:
            init(self, *given, **named)
        except ValidationError as error:
            text, names = one_line(error, kind.__name__), list(made.__pydantic_fields__)
            text = re.sub(r"^(\w+)\.(\d+)", lambda m: f"{m[1]}.{names[int(m[2])]}", text)  # given by its place
            raise UserError(text.replace(" in the configuration", "")) from None

    made.__init__ = in_one_line
    return made


@settings
class Section:
    """Base of all settings: a key that it does not know is named together with those that it knows."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, ArgsKwargs):
            known_keys(given.kwargs or {}, cls.__pydantic_fields__)
            return given
        return known_keys(given, cls.__pydantic_fields__)


@settings
class Sparse(Section):
    """Base of settings whose keys without a value are left out when they are written."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, write: Any) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if value is not None}


def known_keys(given: Any, known: Collection[str]) -> Any:
    """`given` as it is, or a fault if it is a mapping with a key that is not `known`."""
    unknown = [key for key in given if key not in known] if isinstance(given, Mapping) else []
    if not unknown:
        return given
    near = difflib.get_close_matches(str(unknown[0]), known, 1)
    if near:
        text = f"expected a known key, found {unknown[0]}; did you mean {near[0]}?"
    else:
        text = f"expected the keys {', '.join(sorted(known))}; found {unknown[0]}; delete it"
    raise PydanticCustomError("unknown_key", "{text}", {"text": text})


def _whole(value: Any) -> Any:
    """An integral float as the integer that it is: YAML writes both. Integers have 64 bits."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(whole, int) and abs(whole) >= 2**63:
        raise ValueError("expected a number of at most 64 bits, found a longer one; correct it in the configuration")
    return whole


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError(
            f"expected entries that differ from each other, found {list(values)!r}; correct it in the configuration"
        )
    return values


Whole, Distinct = BeforeValidator(_whole), AfterValidator(_distinct)
Natural = Annotated[int, Strict(), Field(ge=0), Whole]
Count = Annotated[int, Strict(), Field(ge=1), Whole]
Seed = Annotated[int, Strict(), Field(ge=0, le=2**32 - 1), Whole]  # what NumPy's oldest generator takes, and pandas
Number = Annotated[float, Strict()]
NonNegative = Annotated[float, Strict(), Field(ge=0)]
Positive = Annotated[float, Strict(), Field(gt=0)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict(), Field(min_length=1)]
Name = Annotated[str, Strict(), Field(pattern="^[a-z][a-z0-9_]*$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1), Distinct]
# What several stages have, described once.
Epochs = Annotated[Count, Field(description="Passes over the training rows.")]
BatchSize = Annotated[Count, Field(description="Rows in an optimiser step, or in a sampling batch.")]
LearningRate = Annotated[Positive, Field(description="Peak learning rate of AdamW.")]
Warmup = Annotated[Share, Field(description="Share of the steps in which the learning rate rises linearly.")]
Schedule = Annotated[
    Literal["constant", "linear", "cosine"], Field(description="Course of the learning rate after the warm-up.")
]
WeightDecay = Annotated[NonNegative, Field(description="Decoupled weight decay of AdamW.")]
MaxGradNorm = Annotated[Positive, Field(description="Gradients are clipped to this Euclidean norm.")]


def changes(*kinds: type, **instead: Any) -> Any:
    """The type of a mapping that says what differs from settings of these kinds: any of their keys, at any depth.

    `instead` gives a key another type. Tuples are replaced whole. A key of choices that several kinds share may have
    any of theirs.
    """
    types: dict[str, Any] = {}
    for kind in kinds:
        for name, field in kind.__pydantic_fields__.items():
            metadata = [] if name in instead or _is_union_of_settings(field.annotation) else field.metadata
            annotation, other = _changes(field.annotation), types.get(name)
            if get_origin(annotation) is Literal and other:
                annotation = Literal[get_args(get_args(other)[0]) + get_args(annotation)]
            types[name] = Annotated[(instead.get(name, annotation), *metadata, Field(description=field.description))]
    mapping = with_config(CONFIG)(TypedDict(f"{kinds[0].__name__}Changes", types, total=False))
    return Annotated[mapping, BeforeValidator(partial(known_keys, known=tuple(types)))]


def _changes(annotation: Any) -> Any:
    members = _members(annotation)
    kinds = [member for member in members if is_pydantic_dataclass(member)]
    if not kinds:
        return annotation
    return changes(*kinds) | None if NoneType in members else changes(*kinds)


def _members(annotation: Any) -> list[Any]:
    """The members of a union without their annotations; of another type, itself."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [inner for member in get_args(annotation) for inner in _members(member)]
    return [annotation]


def _is_union_of_settings(annotation: Any) -> bool:
    return sum(is_pydantic_dataclass(member) for member in _members(annotation)) > 1


def merged(base: Mapping, over: Mapping) -> dict:
    """`base` with what `over` changes, at any depth, as Snakemake merges configurations."""
    both = {key for key in over if isinstance(over[key], Mapping) and isinstance(base.get(key), Mapping)}
    return {**base, **over, **{key: merged(base[key], over[key]) for key in both}}


@cache
def adapter(kind: Any) -> TypeAdapter:
    """Reads and writes values of a type."""
    return TypeAdapter(kind)


def checked(kind: Any, value: Any, where: str = "") -> Any:
    """`value` as `kind`. Raises `UserError`, one line for the first fault: the key below `where`, expected, found."""
    try:
        return adapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError(one_line(error, where)) from None


EXPECTED = {
    "bool_type": "boolean",
    "dataclass_type": "object",
    "dict_type": "object",
    "finite_number": "a finite number",
    "float_type": "number",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number ≥ {ge}",
    "int_type": "integer",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number ≤ {le}",
    "literal_error": "one of {expected}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "at least {min_length} characters",
    "string_type": "string",
    "string_unicode": "text in Unicode",
    "too_long": "at most {max_length} entries",
    "too_short": "at least {min_length} entries",
    "tuple_type": "array",
}
"""Type of pydantic's error → what was expected, with the values of its context."""


def one_line(error: ValidationError, where: str = "") -> str:
    """The first fault as `key: expected …, found …; what to do`; keys that are not known come before others."""
    faults = error.errors(include_url=False)
    fault = next((f for f in faults if f["type"] == "unknown_key"), faults[0])
    kind, found, context = fault["type"], fault["input"], fault.get("ctx", {})
    place = [str(part) for part in fault["loc"] if part != "[key]" and not str(part).startswith(TAG)]
    text = str(context.get("text") or context.get("error") or "")  # of an unknown key, of what does not go together
    if kind == "value_error" and not text.startswith("expected"):
        key, _, text = text.partition(": ")
        place += key.split(".")
    if not text:
        last = place.pop() if kind == "missing" else ""
        missing = f"at least {int(last) + 1} entries" if last.isdigit() else f"the key {last}"
        expected = missing if last else EXPECTED[kind].format(**_shown(context)) if kind in EXPECTED else fault["msg"]
        text = f"expected {expected}, found {brief(found)}; {_remedy(kind, found)}"
    line = f"{'.'.join([where] * bool(where) + place) or 'config'}: {text}"
    return " ".join(line.splitlines())  # a key may hold line breaks


def _shown(context: dict[str, Any]) -> dict[str, Any]:
    """The context of an error as it is printed: whole numbers without a point, choices without quotes."""
    shown = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
    if "expected" in shown:
        shown["expected"] = ", ".join(re.findall("'([^']*)'", shown["expected"]))
    return shown


def brief(value: Any) -> str:
    """A value as an error shows it: the keys of a mapping, and the beginning of what is long."""
    text = repr(sorted(map(str, value)) if isinstance(value, Mapping) else value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _remedy(kind: str, found: Any) -> str:
    if kind in ("float_type", "int_type") and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", str(found)):
        return "write it with a point and a sign, as in 1.0e-4"
    return "correct it in the configuration"
