"""What is written from the settings: a JSON schema for editors, and the page that lists every key."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixdpo.fields import adapter
from mixdpo.run.settings import Configuration

ROOT = Path(__file__).parent.parent.parent
COMMAND = "python -m mixdpo.run.schema"
INTRODUCTION = f"""\
# Settings

Every key of the configuration: what it may be, its default, its meaning. Equations, sections and appendices are the
paper's; "Ours" marks a key that the paper does not name. `config.yaml` has what is changed most, `config/methods/` the
methods, and an overlay (`--configfile`) changes what it names; all other keys have the defaults below. NAME stands for
a name that you choose, in lower-case letters, digits and underscores; N for a place in a list, from 0.

`{COMMAND}` writes this page from the settings in `mixdpo/method/` and `mixdpo/run/`.
"""
PATTERNS = {"^[a-z][a-z0-9_]*$": "name", "^[0-9a-f]{40}$": "commit, 40 hexadecimal digits"}
"""Patterns of texts → what the page calls such a text."""


def generated() -> dict[Path, str]:
    """The generated files, as paths in the repository, and their texts."""
    schema = json.dumps(editor_schema(), indent=1, ensure_ascii=False) + "\n"
    return {Path("mixdpo/run/config.schema.json"): schema, Path("docs/settings.md"): page()}


def write() -> None:
    """Write the generated files."""
    for path, text in generated().items():
        (ROOT / path).write_text(text, encoding="utf-8")


def full_schema() -> dict[str, Any]:
    """The JSON schema of a complete configuration."""
    return _tidied(adapter(Configuration).json_schema())


def _tidied(schema: Any) -> Any:
    """Without the titles that pydantic makes from names, and with descriptions on one line."""
    if isinstance(schema, list):
        return [_tidied(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key != "title" or not isinstance(value, str)}
    kept = {key: value if key in ("default", "const") else _tidied(value) for key, value in kept.items()}
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split())
    return kept


def editor_schema() -> dict[str, Any]:
    """The JSON schema of one file of the configuration, which may leave out any key that other files or defaults give.

    What is in a list is whole, because merging replaces lists.
    """
    schema = full_schema()
    whole = {name for definition in schema["$defs"].values() for name in _in_lists(definition)}
    for name, definition in (("", schema), *schema["$defs"].items()):
        if name not in whole:
            definition.pop("required", None)
        for value in definition.get("properties", {}).values():
            if "oneOf" in value:  # a file may leave out the kind, so that several fit
                value["anyOf"] = value.pop("oneOf")
            if isinstance(value.get("default"), dict):
                del value["default"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _in_lists(schema: Any) -> Iterator[str]:
    """Names of the definitions that are items of lists."""
    if isinstance(schema, dict):
        if "$ref" in schema.get("items", {}):
            yield _name(schema["items"])
        for inner in schema.values():
            yield from _in_lists(inner)


def _name(reference: dict[str, Any]) -> str:
    return reference["$ref"].rpartition("/")[2]


def page() -> str:
    """docs/settings.md: a list of keys for each section. Of two equal sections the second refers to the first."""
    schema, places, parts = full_schema(), {}, [INTRODUCTION]
    for path, definition, defaults in _sections(schema, schema, "", {}):
        set_here = {key: defaults.get(key, value.get("default")) for key, value in definition["properties"].items()}
        place = places.setdefault(json.dumps([definition, set_here], sort_keys=True), path)
        parts.append(f"\n## {path or 'The run'}\n\n")
        if place != path:
            parts.append(f"The keys of [{place}](#{place.replace('.', '').replace(' ', '-').lower()}).\n")
            continue
        about, keys = _wrapped(definition["description"]) * bool(path), list(_items(definition, defaults))
        parts.append("\n".join([*about, *[""] * bool(about and keys), *keys]) + "\n")
    return "".join(parts)


def _sections(schema: dict, definition: dict, path: str, defaults: dict) -> Iterator[tuple[str, dict, dict]]:
    """Every section below a definition, itself first: path, definition, and the defaults that are set above it."""
    yield path, definition, defaults
    for key, value in definition.get("properties", {}).items():
        default = defaults.get(key, value.get("default"))
        default = default if isinstance(default, dict) and "oneOf" not in value else {}
        for place, reference in _references(value, f"{path}.{key}".removeprefix(".")):
            found = schema["$defs"][_name(reference)]
            kind = f" of kind {found['properties']['kind']['const']}" if "oneOf" in value else ""
            yield from _sections(schema, found, place + kind, default)


def _references(value: dict, path: str) -> Iterator[tuple[str, dict]]:
    """The references to settings in what a value may be, with their paths; not those to changes of settings."""
    for member in value.get("anyOf", value.get("oneOf", [value])):
        if "$ref" in member and not _name(member).endswith("Changes"):
            yield path, member
    if "items" in value:
        yield from _references(value["items"], f"{path}.N")
    for inner in _named(value):
        yield from _references(inner, f"{path}.NAME")


def _named(value: dict) -> list[dict]:
    """What a mapping by name may hold."""
    found = [*value.get("patternProperties", {}).values(), value.get("additionalProperties")]
    return [inner for inner in found if isinstance(inner, dict)]


def _items(definition: dict, defaults: dict) -> Iterator[str]:
    """The lines of the list: an item for every key of a section that is no section itself."""
    for key, value in definition["properties"].items():
        if "$ref" in value and not _name(value).endswith("Changes"):
            continue
        default = defaults.get(key, value.get("default", {}))
        shown = "required" if key in definition.get("required", ()) else f"default {_short(default)}"
        yield from _wrapped(f"- `{key}`: {allowed(value)}; {shown}. {value['description']}", "  ")


def _short(value: Any) -> str:
    """A default as it is written; of what is long, its beginning."""
    if isinstance(value, dict) and value:
        return f"kind `{value['kind']}`" if "kind" in value else "as in `config.yaml`"
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if len(text) <= 70 else f"`{text[:69]}…`"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def allowed(value: dict[str, Any]) -> str:
    """What a value may be, in words."""
    members = value.get("anyOf") or value.get("oneOf")
    if members:
        return " or ".join(dict.fromkeys(allowed(member) for member in members))
    if "const" in value or "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
    kind = value.get("type", "section")
    if kind in ("integer", "number"):
        return kind + _bounds(value)
    if kind == "array":
        if "prefixItems" in value:
            return f"list ({allowed(value['prefixItems'][0])}, {len(value['prefixItems'])} of them)"
        least = f", at least {value['minItems']}" if "minItems" in value else ""
        return f"list ({allowed(value['items'])}{least})"
    if _named(value):
        return f"{allowed(_named(value)[0])} for each NAME"
    if kind == "string" and "pattern" in value:
        return PATTERNS.get(value["pattern"], f"text that matches `{value['pattern']}`")
    return {"string": "text", "boolean": "true or false", "object": "section"}.get(kind, kind)


def _bounds(value: dict[str, Any]) -> str:
    if "minimum" in value and "maximum" in value:
        return f" from {value['minimum']:.16g} to {value['maximum']:.16g}"
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    found = [f"{sign} {value[key]:.16g}" for key, sign in signs.items() if key in value]
    return " " + " and ".join(found) if found else ""


if __name__ == "__main__":
    write()
