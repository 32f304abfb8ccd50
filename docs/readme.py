"""Fill the numbers of README.md and docs/*.md from the committed tables: `python docs/readme.py`.

Text between a mark and `<!-- end -->` is written anew from `paper_tables/RUN/TABLE.csv`. In a sentence, one number:

    <!-- value RUN TABLE LABEL… FIELD FORMAT -->0.466 ± 0.014<!-- end -->
    <!-- count RUN TABLE FIELD VALUE -->12<!-- end -->

LABELs are the row's entries in the first columns of the csv. FIELD is one of its columns, or two joined by `±`, and
FORMAT a Python format such as `.3f`, `+.2f` or `s`; `percent` multiplies by 100. `count` is the number of rows whose
FIELD is VALUE. Between lines, a table with a column for each COLUMN; FIELD is as above:

    <!-- cells RUN TABLE FIELD COLUMN… -->
    <!-- end -->
"""

import re
import shlex
from pathlib import Path

import pandas as pd
from tabulate import tabulate

ROOT = Path(__file__).parent.parent
HEADINGS = {"gain": "Mean gain, σ", "kl": "KL(π ‖ π_ref), nats"}
"""Columns of a csv whose names say too little."""
MARK = re.compile(r"<!-- (?P<kind>value|count|cells) (?P<words>[^\n]*?) -->(?P<old>.*?)<!-- end -->", re.DOTALL)


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """`text` with everything between marks written anew. Raises `SystemExit` for a mark that the tables cannot fill."""
    return MARK.sub(_filled_mark, text)


def _filled_mark(mark: re.Match) -> str:
    kind, words = mark["kind"], mark["words"]
    run, table, *rest = shlex.split(words)
    path = ROOT / "paper_tables" / run / f"{table}.csv"
    if not path.is_file():
        raise SystemExit(f"{kind} {words}: expected {path.relative_to(ROOT)}, found no such file; correct the mark")
    try:
        new = {"value": _value, "count": _count, "cells": _cells}[kind](pd.read_csv(path), rest)
    except KeyError as error:
        raise SystemExit(f"{kind} {words}: expected a column of {path.name}, found {error}; correct the mark") from None
    if not new:
        raise SystemExit(f"{kind} {words}: expected a row of {path.name}, found none; correct the mark")
    return f"<!-- {kind} {words} -->{new}<!-- end -->"


def _value(frame: pd.DataFrame, words: list[str]) -> str:
    *labels, field, form = words
    for column, label in zip(frame, labels):
        frame = frame[frame[column] == label]
    return "" if frame.empty else _printed(frame.iloc[0], field, form)


def _count(frame: pd.DataFrame, words: list[str]) -> str:
    field, value = words
    return str((frame[field] == value).sum())


def _cells(frame: pd.DataFrame, words: list[str]) -> str:
    """Rows in the order of the csv. A cell may have several published values: each is printed once.

    Our own numbers of a table of rewards are followed by n, the number of prompts.
    """
    field, *columns = words
    counted, lines = field.startswith("mean") and "prompts" in frame, []
    for row, own in frame.groupby("row", sort=False):
        texts = []
        for column in columns:
            cells = own[own["column"] == column]
            texts.append("; ".join(dict.fromkeys(_printed(cell, field, ".3f") for _, cell in cells.iterrows())))
        if any(texts):
            lines.append([row, *texts, str(own["prompts"].iloc[0])] if counted else [row, *texts])
    headings = ["Model", *(HEADINGS.get(column, column.capitalize()) for column in columns)] + ["n"] * counted
    text = tabulate(lines, headings, "github", disable_numparse=True)
    if len(text.partition("\n")[0]) > 120:
        text = re.sub(r" {2,}(?=\|)", " ", re.sub("-{4,}", "---", text))
    return f"\n{text}\n" if lines else ""


def _printed(row: pd.Series, field: str, form: str) -> str:
    numbers = [row[name] for name in field.split("±")]
    if any(pd.isna(number) for number in numbers):
        return ""
    if form == "percent":
        return " ± ".join(f"{100 * number:.1f}" for number in numbers) + " %"
    return " ± ".join(format(number, form if i == 0 else form.lstrip("+")) for i, number in enumerate(numbers))


if __name__ == "__main__":
    for document in documents():
        document.write_text(filled(document.read_text()))
