"""Preferences that a person brings: a file, a DataFrame or a Dataset, read as one table of texts and labels."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from mixdpo.errors import UserError

TEXTS = ["prompt", "chosen", "rejected"]
LABELS = ["style", "domain", "user"]


def read_preferences(source: Path | str | Any) -> pd.DataFrame:
    """Rows of prompt, chosen, rejected, and style, domain, user where `source` has them: all text, in its order.

    `source` is a parquet, jsonl or csv file, a DataFrame, or what becomes one by `to_pandas()`, as a Dataset does.
    `objective` is another name for style. Raises `UserError` for anything else, one line that names the row.
    """
    if is_file(source):
        return checked_rows(read_file(Path(source)), str(source))
    if isinstance(source, pd.DataFrame):
        return checked_rows(source, "preferences")
    if hasattr(source, "to_pandas"):
        return checked_rows(source.to_pandas(), "preferences")
    kind = type(source).__name__
    remedy = "choose one of its splits" if isinstance(source, dict) else "give it one"
    raise UserError(f"preferences: expected a path, a DataFrame or a Dataset, found {kind}; {remedy}")


def is_file(source: Any) -> bool:
    """Is it the path of a file, and not preferences in memory?"""
    return isinstance(source, str | Path)


def read_file(file: Path) -> pd.DataFrame:
    """All columns of a parquet, jsonl or csv file. Raises `UserError` for what is not such a file."""
    if not file.is_file():
        raise UserError(f"{file}: expected a file of preferences, found none; correct the path")
    readers = {
        ".parquet": pd.read_parquet,
        ".jsonl": lambda path: pd.DataFrame(list(json_lines(path))),
        ".csv": csv_rows,
    }
    if file.suffix not in readers:
        raise UserError(f"{file}: expected a file .parquet, .jsonl or .csv, found {file.name}; convert it")
    try:
        return readers[file.suffix](file)
    except UserError:
        raise
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"{file}: expected {file.suffix[1:]}, found: {str(error).splitlines()[0]}; mend it") from error


def checked_rows(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The columns that are used, rows numbered from 0. `name` is what a fault calls the preferences."""
    if frame.empty:
        raise UserError(f"{name}: expected preferences, found none; give it at least two prompts")
    if {"style", "objective"} <= set(frame):
        raise UserError(f"{name}: expected a column style or objective, found both; delete one of them")
    frame = frame.rename(columns={"objective": "style"})
    if missing := [column for column in TEXTS if column not in frame]:
        raise UserError(
            f"{name}: expected columns {', '.join(TEXTS)}, found {', '.join(map(str, frame))}; "
            f"add {', '.join(missing)} or rename what stands for it"
        )
    labels = [column for column in LABELS if column in frame]
    if doubled := next((column for column in [*TEXTS, *labels] if list(frame).count(column) > 1), None):
        raise UserError(f"{name}: expected columns that differ, found {doubled} twice; rename one")
    for column in [*TEXTS, *labels]:
        for row, value in enumerate(frame[column], 1):
            if found := unfit(column, value):
                raise UserError(f"{name}: expected text as {column}, found {found} in row {row}; correct that row")
    for column in labels:
        lacking = frame[column].isna() | (frame[column] == "")
        if lacking.any():
            row = int(lacking.to_numpy().argmax()) + 1
            raise UserError(f"{name}: expected a {column} in every row, found none in row {row}; fill or drop it")
    return frame[[*TEXTS, *labels]].astype(dict.fromkeys([*TEXTS, *labels], str)).reset_index(drop=True)


def unfit(column: str, value: Any) -> str:
    """What a value is that the column cannot have; nothing if it can. Labels may be numbers."""
    if not isinstance(value, str):
        return type(value).__name__ if column in TEXTS or pd.api.types.is_list_like(value) else ""
    if column == "prompt" and not value:
        return "an empty one"
    return "half a Unicode character" if re.search("[\ud800-\udfff]", value) else ""


def csv_rows(file: Path) -> pd.DataFrame:
    """The rows of a csv file as text, each with as many fields as the header names; empty lines are no rows."""
    csv.field_size_limit(2**31 - 1)  # the default, 131,072 characters, is less than some texts have
    with open(file, encoding="utf-8-sig", newline="") as lines:
        header, *rows = [row for row in csv.reader(lines, strict=True) if row] or [[]]
    if doubled := next((name for name in header if header.count(name) > 1), None):
        raise UserError(f"{file}: expected columns that differ, found {doubled} twice; rename one")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise UserError(
                f"{file}: expected {len(header)} fields in row {number}, as the header names, found {len(row)} "
                f"({','.join(row)[:60]!r}); quote texts that have commas, drop commas at the end"
            )
    return pd.DataFrame(rows, columns=header, dtype=object)


def json_lines(file: Path) -> Iterator[dict]:
    """The objects of a jsonl file, one a line."""
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise UserError(
                    f"{file}: expected a JSON object in line {number}, found {line[:40]!r}; correct that line"
                )
            yield row
