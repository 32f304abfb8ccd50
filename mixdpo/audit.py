"""From a printed number back to the raw reviews: the chain of artifacts behind it, explained and audited."""

import json
from functools import cache
from pathlib import Path

from mixdpo.artifact import label, sha256
from mixdpo.errors import Corrupt

digest = cache(sha256)
"""SHA-256 of a file, each read once."""


def is_manifest(path: str) -> bool:
    return path.endswith("manifest.json")


def short(path: str) -> str:
    """An artifact as it is spoken of: its folder, or the stem of its files."""
    return path.removesuffix("manifest.json").rstrip("./")


@cache
def read(manifest: str) -> dict:
    """A manifest, its payload not verified. Raises `Corrupt` if it is missing or cannot be read."""
    try:
        content = json.loads(Path(manifest).read_text())
        return {key: content[key] for key in ("stage", "spec", "code", "inputs", "files")}
    except FileNotFoundError:
        raise Corrupt(f"{manifest}: expected an artifact, found nothing; run snakemake to make it") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise Corrupt(f"{manifest}: expected a manifest, found something else; delete it and run again") from None


def facts(manifest: str) -> dict | None:
    """The run record of an artifact, as `mixdpo.record.facts` wrote it; None if there is none."""
    run = Path(manifest).parts[1]  # of results/<run>/… and paper_tables/<run>/…
    record = Path(f"results/{run}/runs/{label(Path(manifest))}.json")
    return json.loads(record.read_text()) if record.is_file() else None


def lineage(manifest: Path) -> dict[str, dict]:
    """Every artifact of a chain by the path of its manifest, each before what it was made from.

    Values: stage, spec, code, inputs (short names to paths, of manifests and plain files), sha256 (of the manifest),
    facts (or None) and depth, the number of steps to `manifest` by which it was first reached. Paths are relative to
    the project. Raises `Corrupt` if a manifest of the chain is missing.
    """
    chain, todo = {}, [(Path(manifest).as_posix(), 0)]
    while todo:
        path, depth = todo.pop()
        if path in chain:
            continue
        content = read(path)
        chain[path] = {key: content[key] for key in ("stage", "spec", "code")} | {
            "inputs": {short(source): source for source in content["inputs"]},
            "sha256": digest(Path(path)),
            "facts": facts(path),
            "depth": depth,
        }
        todo += [(source, depth + 1) for source in reversed(content["inputs"]) if is_manifest(source)]
    return chain


def sources(table: dict, manifest: Path, row: str, column: str) -> list[str]:
    """Manifests among the inputs of a table that one of its cells rests on.

    Those of its row's policy and baselines, and those of no policy. All of them where the table names no policy for
    the row. Every column of a row rests on the same.
    """
    inputs = [path for path in read(Path(manifest).as_posix())["inputs"] if is_manifest(path)]
    rows = [entry for entry in table.get("rows", []) if entry.get("name") == row and "policy" in entry]
    if not rows:
        return inputs
    own = {entry[key] for entry in [*rows, table] for key in ("policy", "baseline") if key in entry}
    return [path for path in inputs if method_behind(path) in own | {None}]


def method_behind(manifest: str) -> str | None:
    """The method (or `reference`) whose policy an artifact is or was made with; None for those of no policy."""
    _, _, stage, *rest = Path(manifest).parts
    return rest[1] if stage in ("policies", "evaluations") else None
