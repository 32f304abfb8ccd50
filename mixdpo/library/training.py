"""A policy from preferences of your own: from data to a folder with the policy, its model card and its table."""

import contextlib
import hashlib
import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from mixdpo.data.preferences import is_file, read_preferences
from mixdpo.errors import UserError
from mixdpo.library.experts import expert_tables
from mixdpo.library.generation import TextPolicy
from mixdpo.library.recipes import recipe
from mixdpo.library.reference import Loaded, from_folder, is_loaded, reference, source_of
from mixdpo.library.triplets import given, own_preferences, parquet_bytes
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Gate, Method
from mixdpo.provenance.artifact import KEPT, digests, label, publish, refuse_foreign, verify
from mixdpo.provenance.fingerprint import fingerprint
from mixdpo.stages.policies import policies
from mixdpo.stages.reference_log_probs import reference_log_probs

WRITTEN = "given", "reference", "preferences", "reference_log_probs", "policy"
"""Folders that `train` makes in its `out`, and replaces whole."""
TABLES = ["experts.csv", "experts.md"]
"""Files that it makes beside them."""
log = logging.getLogger("mixdpo")


class Trained(TextPolicy):
    """What `train` made in the folder `out`: a policy that gives text, with the table of its experts.

    `report` is what the command line prints about it; `new` tells whether anything had to be done.
    """

    def __init__(self, out: Path, name: str, new: bool, **how):
        super().__init__(out, **how)
        self.out, self.new = out, new
        self.report = report(out, name, new)

    @property
    def table(self) -> pd.DataFrame:
        """Numbers about the experts on the validation triplets, as `experts.expert_table` describes them."""
        return pd.read_csv(self.out / "experts.csv")


def train(
    preferences: Path | str | pd.DataFrame | Any,
    model: Path | str | Loaded,
    method: Method | None = None,
    *,
    out: Path | str,
    validation_share: float = 0.1,
    max_tokens: int | None = None,
    seed: int = 0,
    tensorboard: Path | str | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Trained:
    """Train a policy on preference triplets, write it to `out`, and return it.

    `preferences` is a parquet, jsonl or csv file, a DataFrame or a Dataset, with prompt, chosen, rejected and, where
    known, style, domain and user. `model` is the reference: a folder of transformers, a name on the hub, NAME or
    NAME@COMMIT, or (model, tokenizer). The default `method` is MoE-DPO with four heads, whose gate sees users if there
    are any; see `recipe`. Triplets with more than `max_tokens` in prompt and completion, or more than the model's
    positions, are dropped and counted.

    `out` gets reference/, preferences/, reference_log_probs/, policy/, experts.csv and experts.md, and given/ for
    preferences from memory. Each is published whole: the same call continues after a kill, ends with the same bytes,
    and does nothing when all is there. Other files in `out` stay: a file in one of these folders that `train` did not
    write is refused before any work. Raises `UserError`, one line, for what can be mended.
    """
    if not str(out):
        raise UserError("out: expected a folder, found an empty name; name one, or . for this folder")
    out, frame = Path(out), read_preferences(preferences)
    spec = method_spec(method or recipe(by_user="user" in frame), list(frame)) | {"seed": seed}
    division = {"validation_share": validation_share, "max_tokens": max_tokens, "seed": seed}
    check_numbers(**division, threads=threads)
    check_paths(out, model=model, preferences=preferences, tensorboard=tensorboard)
    source, content = source_of(model, out), None if is_file(preferences) else parquet_bytes(frame)
    how = {"device": device, "precision": precision, "threads": threads or os.cpu_count()}
    runtime = Runtime.choose(**how)
    out.mkdir(parents=True, exist_ok=True)
    file = Path("given/preferences.parquet") if content else from_folder(out, preferences)
    given_manifest, start, triplets, known, policy = (Path(name, "manifest.json") for name in WRITTEN)
    shown = Path("experts.manifest.json")
    for manifest in start, triplets, known, policy, *([given_manifest] if content else []):
        refuse_foreign(manifest, root=out)
    refuse_foreign(shown, TABLES, out)
    inputs, make = {"reference": start, "preferences": triplets}, Maker(out, runtime)
    with events(tensorboard) as observe:
        if content:
            digest = {"sha256": hashlib.sha256(content).hexdigest()}
            make(given_manifest, given, digest, {}, content=content)
        make(start, reference, source, {}, model=model)
        make(triplets, own_preferences, division, {"reference": start, "file": file})
        make(known, reference_log_probs, {}, inputs)
        make(policy, policies, spec, inputs | {"reference_log_probs": known}, observe=observe)
        make(shown, expert_tables, {"styles": spec["styles"]}, {"policy": policy, "preferences": triplets})
    return Trained(out, str(preferences) if is_file(preferences) else "preferences", make.new, **how)


class Maker:
    """Publishes artifacts below a root, unless the same are there already; `new` tells whether any was made."""

    def __init__(self, root: Path, runtime: Runtime):
        self.root, self.runtime, self.new = root, runtime, False

    def __call__(self, manifest: Path, step: Callable, spec: dict, inputs: dict[str, Path], **extra) -> None:
        """Publish what `step` writes from `spec`, `inputs` (paths below the root) and `extra`."""
        work = {"stage": step.__name__, "spec": spec, "code": fingerprint(step.__module__)}
        half = (self.root / KEPT / label(manifest)).exists()  # killed while its files took their places
        found = verify(self.root / manifest) if (self.root / manifest).exists() and not half else None
        if found and work | {"inputs": digests(inputs, self.root)} == {k: v for k, v in found.items() if k != "files"}:
            return
        if found and step is policies:
            log.warning("%s", replaced(self.root / manifest.parent, found["spec"], spec))
        folders = {name: self.root / (p.parent if p.name == "manifest.json" else p) for name, p in inputs.items()}
        how = {"inputs": inputs, "runtime": asdict(self.runtime), "root": self.root}
        with publish(manifest, **work, **how) as (staging, resume):
            step(staging, spec, runtime=self.runtime, resume=resume, **folders, **extra)
        self.new = True


def replaced(folder: Path, before: dict, spec: dict) -> str:
    """One line about a policy that is about to be replaced: the settings that it was made with."""
    before, now = flat(before), flat(spec)
    other = ", ".join(f"{key} {before.get(key)}, now {now.get(key)}" for key in now if before.get(key) != now[key])
    return f"{folder}: made with {other or 'other code, model or preferences'}; it stays until the new one is whole"


def flat(spec: dict, prefix: str = "") -> dict[str, Any]:
    """The values of nested settings by dotted key."""
    values = {}
    for key, value in spec.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def method_spec(method: Method, columns: list[str]) -> dict:
    """The settings of a method that can be trained here, on preferences with these columns. Raises `UserError`."""
    if not isinstance(method, Method):
        raise UserError(f"method: expected a Method, found {type(method).__name__}; write Method(Experts(heads=4))")
    if method.experts.initial:
        raise UserError(
            f"experts.initial: expected none here, found {list(method.experts.initial)}; add the method to the workflow"
        )
    if method.top_s:
        raise UserError(f"top_s: expected none in training, found {method.top_s}; give it to generate")
    if isinstance(method.weights, Gate) and method.weights.start == "domains":
        raise UserError("weights.start: expected uniform here, found domains; set it to uniform")
    by_user, posterior = isinstance(method.weights, Gate) and method.weights.sees == "user", method.posterior
    shared = posterior.unit not in ("triplet", "prompt")
    for wanted, key, column, off in (
        (by_user, "weights.sees", "user", "prompt"),
        (method.styles, "styles", "style", None),
        (posterior.taught, "posterior.taught", "style", None),
        (shared, "posterior.unit", posterior.unit, "triplet"),
        (method.user_in_prompt, "user_in_prompt", "user", "false"),
        (method.pairs != "all", "pairs", "pair", "all"),
    ):
        if wanted and column not in columns:
            instead = "null" if off is None else off
            raise UserError(f"{key}: expected preferences with a column {column}, found none; set it to {instead}")
    return {key: value for key, value in method.as_dict().items() if key != "top_s"}


def check_numbers(validation_share: float, max_tokens: int | None, seed: int, threads: int | None) -> None:
    """Raise `UserError` for a share, a length, a seed or a number of threads that cannot be."""
    for key, value in {"max_tokens": max_tokens, "seed": seed, "threads": threads}.items():
        if value is not None and type(value) is not int:
            raise UserError(f"{key}: expected an integer, found {value!r}; correct it")
    if not isinstance(validation_share, float | int) or not 0 < validation_share < 1:
        raise UserError(f"validation_share: expected a number between 0 and 1, found {validation_share}; correct it")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed: expected a number ≥ 0 and < 2³², found {seed}; correct it")
    if threads is not None and threads < 1:
        raise UserError(f"threads: expected a number ≥ 1, found {threads}; raise it")
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens: expected a number ≥ 1, found {max_tokens}; raise it")


def check_paths(out: Path, **given: Any) -> None:
    """Raise `UserError` if `out` is a file or lies in the model, or what is `given` lies where `train` writes."""
    if file := next((p for p in (out, *out.parents) if os.path.lexists(p) and not p.is_dir()), None):
        raise UserError(f"out: expected a folder, found the file {file}; name another")
    if given["tensorboard"] is not None and Path(given["tensorboard"]).is_file():
        raise UserError(f"tensorboard: expected a folder, found the file {given['tensorboard']}; name another")
    model = given["model"]
    if not is_loaded(model) and Path(model).is_dir() and out.resolve().is_relative_to(Path(model).resolve()):
        raise UserError(f"out: expected a folder outside the model's {model}, found {out}; name another")
    for key, path in given.items():
        if not is_file(path) or not (key == "tensorboard" or Path(path).exists()):
            continue
        for folder in (out / name for name in WRITTEN):
            if Path(path).resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{key}: expected a path outside {folder}, which train writes, found {path}; move it")


@contextlib.contextmanager
def events(folder: Path | str | None) -> Iterator[Callable[[dict], None]]:
    """The function that `policies` calls with each row of its curve: it writes TensorBoard scalars to `folder`, if any.

    With several starts, those that do not go on are written too, over the same steps."""
    if folder is None:
        yield lambda row: None
        return
    try:
        module = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise UserError(
            "tensorboard: expected the package tensorboard, found none; type pip install 'mixdpo[tensorboard]'"
        ) from None
    writers = []

    def observe(row: dict) -> None:
        if not writers:
            writers.append(module.SummaryWriter(str(folder)))
        for name in row.keys() - {"step"}:
            writers[0].add_scalar(name.replace(" ", "/"), row[name], row["step"])

    try:
        yield observe
    finally:
        for writer in writers:
            writer.close()


def report(out: Path, name: str, new: bool) -> str:
    """What `out` holds: how many triplets the preferences `name` gave, the table, and where the files are."""
    counts, table = json.loads((out / "preferences/counts.json").read_text()), (out / "experts.md").read_text()
    folder = out / "policy/model"
    dropped = f"{counts['equal']} with chosen = rejected, {counts['long']} of more than {counts['max_tokens']} tokens"
    triplets = f"{counts['train']} triplets for training, {counts['validation']} for validation"
    lines = [f"{name}: {triplets}; dropped {dropped}"]
    if not new:
        lines.append(f"{out}: everything is there, nothing was done; to train again delete {out}/policy")
    lines.append(f"\n{table}\npolicy: {folder}\nmodel card: {folder}/README.md")
    return "\n".join([*lines, f"table: {out}/experts.csv, {out}/experts.md"])
