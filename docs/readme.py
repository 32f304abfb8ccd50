"""Fill the numbers of README.md and docs/*.md from the committed tables: `python docs/readme.py`.

Text between a mark and `<!-- end -->` is written anew from `paper_tables/RUN/TABLE.csv`. In a sentence, one number:

    <!-- value RUN TABLE LABEL… FIELD FORMAT -->0.466 ± 0.014<!-- end -->
    <!-- count RUN TABLE FIELD VALUE -->12<!-- end -->

LABELs are the row's entries in the first columns of the csv. FIELD is one of its columns, or two joined by `±`, or by
`…` for an interval, and FORMAT a Python format such as `.3f`, `+.2f` or `s`; `percent` multiplies by 100. `count` is
the number of rows whose FIELD is VALUE. Between lines, a table with a column for each COLUMN, which may be followed by
`:FORMAT`, else `.3f`; FIELD is as above:

    <!-- cells RUN TABLE FIELD COLUMN… -->
    <!-- end -->

And the table of a search over settings, from a file that benchmarks/search.py wrote, with the FIGUREs of each method:

    <!-- search FILE FIGURE… -->
    <!-- end -->
"""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
from tabulate import tabulate

ROOT = Path(__file__).parent.parent
HEADINGS = {
    "alignment": {"gain": "Mean gain, σ", "kl": "KL(π ‖ π_ref), nats"},
    "fair_trial": {
        "likelihood": "−log P",
        "gain": "Gain in log P",
        "recovered": "Style recovered",
        "annotators": "Annotators recovered",
        "correlation": "Correlation",
    },
    "held_out": {"mean": "Mean of the styles"},
    "new_users": {"less seen": "Less seen users"},
}
"""Of a table: columns whose names say too little."""
MARK = re.compile(r"<!-- (?P<kind>value|count|cells|search) (?P<words>[^\n]*?) -->(?P<old>.*?)<!-- end -->", re.DOTALL)


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """`text` with everything between marks written anew. Raises `SystemExit` for a mark that the tables cannot fill."""
    return MARK.sub(_filled_mark, text)


def _filled_mark(mark: re.Match) -> str:
    kind, words = mark["kind"], mark["words"]
    first, *rest = shlex.split(words)
    path = ROOT / first if kind == "search" else ROOT / "paper_tables" / first / f"{rest.pop(0)}.csv"
    if not path.is_file():
        raise SystemExit(f"{kind} {words}: expected {path.relative_to(ROOT)}, found no such file; correct the mark")
    try:
        new = {"value": _value, "count": _count, "cells": _cells, "search": _search}[kind](path, rest)
    except KeyError as error:
        raise SystemExit(f"{kind} {words}: expected a column of {path.name}, found {error}; correct the mark") from None
    if not new:
        raise SystemExit(f"{kind} {words}: expected a row of {path.name}, found none; correct the mark")
    return f"<!-- {kind} {words} -->{new}<!-- end -->"


def _value(path: Path, words: list[str]) -> str:
    *labels, field, form = words
    frame = pd.read_csv(path)
    for column, label in zip(frame, labels):
        frame = frame[frame[column] == label]
    return "" if frame.empty else _printed(frame.iloc[0], field, form)


def _count(path: Path, words: list[str]) -> str:
    field, value = words
    return str((pd.read_csv(path)[field] == value).sum())


def _cells(path: Path, words: list[str]) -> str:
    """Rows in the order of the csv, by all that stands before its `column`. A cell may have several published values:
    each is printed once.

    Our own numbers of a table of rewards are followed by n, the number of prompts.
    """
    frame = pd.read_csv(path)
    field, *columns = words
    names, forms = zip(*((name, form or ".3f") for name, _, form in (column.partition(":") for column in columns)))
    labels, lines = list(frame)[: list(frame).index("column")], []
    counted = bool(field.startswith("mean") and "prompts" in frame and frame["prompts"].notna().all())
    for row, own in frame.groupby(labels, sort=False):
        texts = []
        for name, form in zip(names, forms):
            cells = own[own["column"] == name]
            texts.append("; ".join(dict.fromkeys(_printed(cell, field, form) for _, cell in cells.iterrows())))
        if any(texts):
            lines.append([*row, *texts, str(own["prompts"].iloc[0])] if counted else [*row, *texts])
    known = HEADINGS.get(path.stem, {})
    headings = [known.get(name, _capital(name).replace("_", " ")) for name in (*labels[1:], *names)]
    return _table(["Model", *headings] + ["n"] * counted, lines)


def _search(path: Path, figures: list[str]) -> str:
    found = json.loads(path.read_text())
    unknown = set(figures) - {name for entry in found.values() for name in entry["figures"]}
    if unknown:
        raise KeyError(*sorted(unknown))
    lines = [[name, *(_figure(entry["figures"].get(figure)) for figure in figures)] for name, entry in found.items()]
    return _table(["Method", *map(_capital, figures)], lines)


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _figure(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _table(headings: list[str], lines: list[list[str]]) -> str:
    """Nothing if there are no lines. What is wider than 120 characters is not aligned."""
    text = tabulate(lines, headings, "github", disable_numparse=True)
    if len(text.partition("\n")[0]) > 120:
        text = re.sub(r" {2,}(?=\|)", " ", re.sub("-{4,}", "---", text))
    return f"\n{text}\n" if lines else ""


def _printed(row: pd.Series, field: str, form: str) -> str:
    first, *rest = re.split("([±…])", field)
    sign, others = (rest[0], rest[1::2]) if rest else ("", [])
    numbers = [row[name] for name in (first, *others)]
    if any(pd.isna(number) for number in numbers):
        return ""
    between = " to " if sign == "…" else f" {sign} "
    if form == "percent":
        return between.join(f"{100 * number:.1f}" for number in numbers) + " %"
    later = form.lstrip("+") if sign == "±" else form
    return between.join(format(number, later if i else form) for i, number in enumerate(numbers))


if __name__ == "__main__":
    for document in documents():
        document.write_text(filled(document.read_text()))
