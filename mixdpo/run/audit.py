"""From a printed number back to the raw reviews: the chain of artifacts behind it, explained and audited."""

import csv
import difflib
import importlib
import inspect
import json
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from graphlib import TopologicalSorter
from itertools import zip_longest
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from mixdpo.errors import Corrupt, UserError
from mixdpo.provenance.artifact import remake, sha256, verify
from mixdpo.provenance.fingerprint import fingerprint
from mixdpo.run.config import COMPARED
from mixdpo.run.graph import inputs_of, job, printed, records, table_inputs, targets
from mixdpo.run.kinds import KINDS
from mixdpo.run.layout import PRINTED, is_manifest, is_record, parse, short
from mixdpo.run.stages import STAGES

LISTED = 3
"""Artifacts that a sentence names before it counts the others."""
CHANGED = " is not what it was when it went into"
OTHER_SETTINGS = "the settings that differ from the paper's changed since the page listed them in"
RESTORE = "restore it from Git, or delete the files of the table and run snakemake"


def read(manifest: str) -> dict:
    """A manifest, its payload not verified. Raises `Corrupt` if it is missing or cannot be read."""
    try:
        content = json.loads(Path(manifest).read_text())
        return {key: content[key] for key in ("stage", "spec", "code", "inputs", "files")}
    except FileNotFoundError:
        raise Corrupt(f"{manifest}: expected an artifact, found nothing; run snakemake to make it") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise Corrupt(f"{manifest}: expected a manifest, found something else; {remake(Path(manifest))}") from None


def facts(manifest: str) -> dict | None:
    """The run record of an artifact, as `mixdpo.provenance.record.facts` wrote it; None if there is none."""
    record = Path(parse(manifest).record)
    return json.loads(record.read_text()) if record.is_file() else None


def lineage(manifest: Path, among: Collection[str] | None = None) -> dict[str, dict]:
    """Every artifact of a chain by the path of its manifest, each before what it was made from.

    Values: stage, spec, code, inputs (short names to paths, of manifests and plain files), sha256 (of the manifest),
    facts (or None) and depth, the number of steps to `manifest` by which it was first reached. Paths are relative to
    the project. With `among` only those direct inputs are followed. Raises `Corrupt` if a manifest is missing.
    """
    chain, todo = {}, [(Path(manifest).as_posix(), 0)]
    while todo:
        path, depth = todo.pop()
        if path in chain:
            continue
        content = read(path)
        inputs = [p for p in content["inputs"] if chain or among is None or p in among or not is_manifest(p)]
        chain[path] = {key: content[key] for key in ("stage", "spec", "code")} | {
            "inputs": {short(source): source for source in inputs},
            "sha256": sha256(Path(path)),
            "facts": facts(path),
            "depth": depth,
        }
        todo += [(source, depth + 1) for source in reversed(inputs) if is_manifest(source)]
    return chain


def sources(table: dict, manifest: Path, row: str, column: str) -> list[str]:
    """Manifests among the inputs of a table that one of its cells rests on; `row` is the name of a row or a claim.

    Those of its row's policy, of what it is compared with, and those of no policy. All of them where the table names no
    policy for the row. Every column of a row rests on the same.
    """
    inputs = [path for path in read(Path(manifest).as_posix())["inputs"] if is_manifest(path)]
    rows = [e for e in table.get("rows", []) if row in (e.get("name"), e.get("claim")) and "policy" in e]
    if not rows:
        return inputs
    own = {entry[key] for entry in [*rows, table] for key in COMPARED if key in entry}
    return [path for path in inputs if parse(path).method in own | {"", *table.get("opponents", ())}]


def remade(stage: str, table: str, inputs: dict[str, str], out: Path) -> None:
    """Make a table again in the folder `out`, by the function that made it; of a figure, only its csv.

    `inputs` are those of `graph.table_inputs`, and run records.
    """
    paths = {name: Path(path).parent if is_manifest(path) else Path(path) for name, path in inputs.items()}
    module = importlib.import_module(STAGES[stage])
    if stage == "tables":
        module.tables(out, {"table": table}, runtime=None, resume=out, **paths)
    else:
        _, numbers = module.drawn(paths.pop("published"), paths)
        numbers.to_csv(out / f"{table}.csv", index=False)


def difference(found: Path, expected: Path) -> str | None:
    """The first difference between a printed file and the same file made again, in words; None if there is none."""
    if found.read_bytes() == expected.read_bytes():
        return None
    ours, theirs = found.read_text().splitlines(), expected.read_text().splitlines()
    if found.suffix != ".csv":
        line = next(n for n, (a, b) in enumerate(zip_longest(ours, theirs), 1) if a != b)
        return f"{found}, line {line}: expected what its inputs give, found another text"
    for line, (a, b) in enumerate(zip_longest(csv.reader(ours), csv.reader(theirs), fillvalue=[]), 1):
        if a != b:
            fields = [(x, y) for x, y in zip_longest(a, b, fillvalue="nothing") if x != y]
            here, there = (", ".join(side) for side in zip(*fields))
            return f"{found}, line {line} ({', '.join(b[:2] or a[:2])}): expected {there} from its inputs, found {here}"
    return f"{found}: expected the bytes that its inputs give, found others of the same meaning"


Fault = tuple[str, str]
"""What is wrong, and what to do about it; the artifacts concerned are named between the two."""


def audit(config: dict, tables: dict[str, dict]) -> tuple[list[str], str]:
    """The faults of a run, one sentence each, causes before what follows from them; and a summary of one line.

    Every artifact of the run, of each further target that was made here, and every other that their manifests name is
    compared with its files, its inputs, today's configuration and code, and its run record. Tables, and the csv of
    figures, are made again. What merely rests on a faulty artifact is no further fault.
    """
    further = {n: t["target"] for n, t in tables.items() if "target" in t and Path(printed(config, n)).is_file()}
    here = sorted(target for target in {*further.values()} if made_here(config, tables, target))
    ways = {target: targets(config, tables, target) for target in ("all", *here)}
    wanted = list(dict.fromkeys(path for paths in ways.values() for path in paths))
    others = ", ".join(name for name, target in further.items() if target not in here)
    aside = f"; not audited, since no run here made them: {others}" if others else ""
    chain, faults = causes_first(wanted), dict[Fault, list[str]]()
    with ThreadPoolExecutor() as pool:  # hashing frees the interpreter
        corrupt = dict(zip(chain, tqdm(pool.map(corruption, chain), "files", len(chain), disable=None)))
    whole = [path for path in chain if not corrupt[path]]
    jobs = {path: job(config, tables, path) for path in whole if path in wanted}
    edited = {path: stage for path, (stage, _) in jobs.items() if fingerprint(STAGES[stage]) != chain[path]["code"]}
    if edited:
        stages = " and ".join(f"stage {stage}" for stage in dict.fromkeys(edited.values()))
        faults[f"code of {stages} changed since it made", "run snakemake"] = list(edited)
    broken = set(edited)
    for path in chain:
        found = [corrupt[path]] if corrupt[path] else [*changed_inputs(path), *reconfigured(path, jobs.get(path))]
        if parse(path).stage in PRINTED and not corrupt[path]:
            found += other_inputs(path, inputs_of(config, tables, path))
        broken |= {path} if found else set()
        for fault in found if corrupt[path] else [*found, *unrecorded(path)]:
            faults.setdefault(fault, []).append(path)
    cells, compared, names = 0, 0, [key.table for key in map(parse, wanted) if key.table]
    for name in tqdm(names, "tables", disable=None):
        manifest, inputs = printed(config, name), table_inputs(config, tables, name)
        if manifest in broken or any(corrupt.get(path) for path in inputs.values()):
            continue
        told, size = compare(manifest, inputs | records_of(config, tables, name))
        compared, cells = compared + 1, cells + size
        if told:
            faults[told, RESTORE] = []
            faults.pop((f"{manifest}{CHANGED}", "run snakemake"), None)  # what the page says follows
    faults = {fault: artifacts for fault, artifacts in faults.items() if not follows(fault, faults, chain)}
    if not faults:
        unknown = sum(facts(path)["commit"] is None for path in chain)
        outside = f" ({unknown} made outside Git, so that their commit is unknown)" if unknown else ""
        return [], f"{len(chain)} artifacts{outside}, {compared} tables and figures, {cells} cells: all match{aside}"
    sentences = [sentence(what, found, aimed(remedy, found, ways)) for (what, remedy), found in faults.items()]
    count = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
    return sentences, f"{count}; {compared} of {len(names)} tables and figures made again and compared{aside}"


def made_here(config: dict, tables: dict[str, dict], target: str) -> bool:
    """Whether anything is there that only this target makes. Tables alone are not: Git brings those of another
    machine."""
    only = [parse(path) for path in {*targets(config, tables, target)} - {*targets(config, tables)}]
    results = [key.manifest for key in only if key.stage not in PRINTED]
    return not results or any(Path(path).is_file() for path in results)


def aimed(remedy: str, artifacts: list[str], ways: dict[str, list[str]]) -> str:
    """A remedy that names the targets of `ways` which make these artifacts, where the default one makes not all."""
    needed = {next((target for target, paths in ways.items() if path in paths), "all") for path in artifacts}
    return remedy.replace("run snakemake", f"run snakemake {' '.join(sorted(needed))}") if needed - {"all"} else remedy


def sentence(what: str, artifacts: list[str], remedy: str) -> str:
    listed = ", ".join(map(short, artifacts[:LISTED]))
    more = f" and {len(artifacts) - LISTED} more" if len(artifacts) > LISTED else ""
    return "; ".join(filter(None, (": ".join(filter(None, (what, listed + more))), remedy)))


def causes_first(manifests: Collection[str]) -> dict[str, dict]:
    """These artifacts and all that their manifests name, each after what it was made from; empty if unreadable."""
    chain, todo = {}, list(manifests)
    while todo:
        path = todo.pop()
        if path not in chain:
            try:
                chain[path] = read(path)
            except Corrupt:
                chain[path] = {}
            todo += filter(is_manifest, chain[path].get("inputs", []))
    graph = {path: filter(is_manifest, content.get("inputs", [])) for path, content in chain.items()}
    return {path: chain[path] for path in TopologicalSorter(graph).static_order()}


def corruption(manifest: str) -> Fault | None:
    """An artifact that is missing, or whose files do not match it."""
    if not Path(manifest).is_file():
        return "missing", "run snakemake"
    try:
        read(manifest)
        verify(Path(manifest))
    except Corrupt as error:
        return str(error), ""
    return None


def changed_inputs(manifest: str) -> Iterator[Fault]:
    """Inputs that are not what they were when the artifact was made; missing artifacts have a fault of their own."""
    for source, digest in read(manifest)["inputs"].items():
        if not Path(source).is_file():
            if not is_manifest(source):
                yield f"{source} is missing, and these were made from it", "restore it"
        elif sha256(Path(source)) != digest:
            yield f"{source}{CHANGED}", "run snakemake"


def follows(fault: Fault, faults: Collection[Fault], chain: dict[str, dict]) -> bool:
    """Whether a fault follows from another: a changed input behind this one, or settings that other faults name."""
    if fault[0] == OTHER_SETTINGS:
        return len(faults) > 1
    changed = {what.removesuffix(CHANGED) for what, _ in faults if what.endswith(CHANGED)}
    behind, todo = set(), [fault[0].removesuffix(CHANGED)] if fault[0].endswith(CHANGED) else []
    while todo:
        inputs = chain.get(todo.pop(), {}).get("inputs", {}).keys() - behind
        behind |= inputs
        todo += inputs
    return not changed.isdisjoint(behind)


def reconfigured(manifest: str, today: tuple[str, dict] | None) -> Iterator[Fault]:
    """Keys of an artifact's spec that differ from `today`, its stage and spec by the configuration."""
    if today is None:
        return
    content, (stage, spec) = read(manifest), today
    now, then = flat(json.loads(json.dumps(spec))), flat(content["spec"])
    if content["stage"] != stage:
        yield f"made by stage {content['stage']}, where the configuration names stage {stage}", "run snakemake"
    for key in sorted(now.keys() | then.keys()):
        if key == "differences" and now[key] != then.get(key):
            yield OTHER_SETTINGS, "run snakemake"
        elif now.get(key, "absent") != then.get(key, "absent"):
            values = f"{now.get(key, 'absent')} in the configuration and was {then.get(key, 'absent')}"
            yield f"{stage}: {key} is {values} when it made", "run snakemake"


def flat(spec: object, key: str = "") -> dict[str, object]:
    """The leaves of a spec by their dotted keys."""
    if not isinstance(spec, dict) or not spec:
        return {key: spec} if key else {}
    return {k: v for name, value in spec.items() for k, v in flat(value, f"{key}.{name}".lstrip(".")).items()}


def other_inputs(manifest: str, expected: dict[str, str]) -> list[Fault]:
    """Inputs that a table has and should not have, or the reverse; run records come and go, and missing files have a
    fault."""
    found = {path for path in read(manifest)["inputs"] if not is_record(path)}
    other = sorted(path for path in found ^ set(expected.values()) if Path(path).is_file())
    told = {path: f"{path} is {'no' if path in found else 'an'} input by today's configuration" for path in other}
    return [(f"{told[path]}, unlike when these were made", "run snakemake") for path in other]


def unrecorded(manifest: str) -> Iterator[Fault]:
    """An artifact without a run record, or made with code that is not in Git."""
    record = facts(manifest)
    if record is None:
        yield "no run record", "delete their files and run snakemake"
    elif record["dirty"]:
        commit = record["commit"][:8]
        yield f"made with uncommitted changes to the code of {commit}", "commit, delete their files and run snakemake"


def records_of(config: dict, tables: dict[str, dict], name: str) -> dict[str, str]:
    """The run records that a table was made from; those that appeared since are none of its inputs."""
    known = read(printed(config, name))["inputs"]
    return {key: path for key, path in records(config, tables, name).items() if path in known}


def compare(manifest: str, inputs: dict[str, str]) -> tuple[str | None, int]:
    """Make a table or the csv of a figure again: the first difference from what is printed, and the rows of its csv."""
    with tempfile.TemporaryDirectory() as out:
        remade(read(manifest)["stage"], name := parse(manifest).table, inputs, Path(out))
        differences = [difference(Path(manifest).with_name(file.name), file) for file in sorted(Path(out).iterdir())]
        size = len(pd.read_csv(Path(out) / f"{name}.csv"))
    return next(filter(None, differences), None), size


def explain(config: dict, tables: dict[str, dict], name: str, labels: list[str]) -> str:
    """A table's cell, or a whole table or figure without `labels`: the number made again, its definition, its chain.

    A label is the row, then the column of a cell; in a csv without these, a value of one of its columns of text, or
    the name of a column of numbers. Raises `UserError` if there is no such cell, if it cannot be made again from
    intact artifacts, or if what is printed differs from it.
    """
    if name not in tables:
        raise UserError(f"{name}: expected a table or figure, {near(name, tables)}")
    table, manifest, among = tables[name], printed(config, name), None
    stage, file = read(manifest)["stage"], Path(manifest).with_name(f"{name}.csv")
    if labels:
        shown = cell(pd.read_csv(file, dtype=str, keep_default_na=False), labels, str(file))
        among = sources(table, Path(manifest), shown.iloc[0, 0], shown.iloc[0].get("column", ""))
    chain = lineage(Path(manifest), among)
    for path in chain:
        for what, remedy in filter(None, (corruption(path), *changed_inputs(path))):
            raise UserError(sentence(what, [path] if remedy else [], remedy))
    lines = [f"{name}: {table['title']} ({table['where']})"]
    with tempfile.TemporaryDirectory() as out:
        inputs = table_inputs(config, tables, name) | records_of(config, tables, name)
        remade(stage, name, inputs, Path(out))
        again = pd.read_csv(Path(out) / file.name, dtype=str, keep_default_na=False)
        if labels:
            expected = cell(again, labels, "made again")
            told = [(c, *("; ".join(part[c].unique()) for part in (expected, shown))) for c in expected]
            for column, ours, found in told:
                if ours != found:
                    what = f"{file}: {', '.join(labels)}: expected {column} {ours} from its inputs, found {found}"
                    raise UserError(f"{what}; {RESTORE}")
            lines += [f"  {column:16} {ours}" for column, ours, _ in told if ours]
        elif what := difference(file, Path(out) / file.name):
            raise UserError(f"{what}; {RESTORE}")
        else:
            lines.append(f"  {len(again)} rows of {file}, made again: the same")
    definition = inspect.getdoc(KINDS[table["kind"]].load())
    lines += ["", *definition.splitlines(), ""]
    return "\n".join(lines + [line for path, link in chain.items() for line in told_of(path, link)])


def told_of(path: str, link: dict) -> list[str]:
    """An artifact of a chain in three or four lines, indented by its depth."""
    record, margin = link["facts"], "  " * link["depth"]
    lines = [f"{short(path)}  {link['sha256'][:12]}"]
    lines.append(f"  {link['stage']} {json.dumps(link['spec'], ensure_ascii=False)}, code {link['code']}")
    lines += [f"  from {source}" for source in link["inputs"].values() if not is_manifest(source)]
    if record is None:
        lines.append("  no run record")
    else:
        state = {True: "with uncommitted changes", False: "clean", None: "commit unknown"}[record["dirty"]]
        where = f"{record['host']}, {record['processor']}, {record['device']}, {record['precision']}"
        lines.append(f"  {record['started']}, {record['seconds']} s, {record['peak_memory_mib']} MiB, {where}")
        lines.append(f"  commit {record['commit'] or '–'}, {state}")
    return [margin + line for line in lines]


def cell(cells: pd.DataFrame, labels: list[str], where: str) -> pd.DataFrame:
    """The rows of a csv (as text) that are the cell of these labels: several if it has several published values."""
    keys = [column for column in ("row", "column") if column in cells] or [
        column for column in cells if pd.to_numeric(cells[column].replace("", "0"), errors="coerce").isna().any()
    ]
    values = [] if "row" in keys else [column for column in cells if column not in keys]
    shown, left = [column for column in cells if column not in keys], list(keys)
    for text in labels:
        if key := next((key for key in left if (cells[key] == text).any()), None):
            cells = cells[cells[key] == text]
            left.remove(key)
        elif text in values:
            shown = [text]
        else:
            known = [value for key in left for value in cells[key].unique()] + values
            raise UserError(f"{where}: expected a row, column or other label, {near(text, known)}")
    for key in keys:
        if cells[key].nunique() > 1:
            options = ", ".join(cells[key].unique())
            raise UserError(f"{where}: expected a {key} too, one of {options}, found {' '.join(labels)}; add it")
    return cells[keys + shown]


def near(text: str, known: Collection[str]) -> str:
    """The end of a message: what was found, and what may have been meant."""
    alike = [k for k in known if text.lower() in k.lower()] or difflib.get_close_matches(text, known, LISTED, 0.4)
    return f"found {text}; did you mean {' or '.join(alike or known)}?"
