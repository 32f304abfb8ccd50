"""The paper as data: tables that take their rows and published values from other tables."""

from pathlib import Path

from mixdpo.run.yaml import read


def opened(published: Path, artifacts: dict[str, Path]) -> tuple[dict, dict[str, Path]]:
    """What a table or figure is made from: its form, and its artifacts without the other tables that the form names.

    The form is resolved, and its `experiments` are only those that it has artifacts of.
    """
    form = read(published)
    others = {name: read(artifacts[name]) for name in sources_of(form)}
    form, folders = resolved(form, others), {name: path for name, path in artifacts.items() if name not in others}
    if "experiments" in form:
        known = {name.partition(":")[2].partition("/")[0] for name in folders}
        form["experiments"] = [experiment for experiment in form["experiments"] if experiment in known]
    return form, folders


def sources_of(table: dict) -> list[str]:
    """The other tables that a table takes rows (`rows_of`) or published cells (`cells_of`) from."""
    return list(dict.fromkeys([*table.get("rows_of", []), *table.get("cells_of", [])]))


def resolved(table: dict, tables: dict[str, dict]) -> dict:
    """A table with the rows of those in `rows_of`, each once, or once for each setting that touches it; and `cells`.

    `cells` are the published values of its sources: (experiment, policy, decoding, column) → mean, se and where.
    """
    if not sources_of(table):
        return table
    rows, cells = {}, {}
    for name in table.get("rows_of", []):
        for row in tables[name]["rows"]:
            rows.setdefault(row.get("claim", (row.get("policy"), row.get("decoding"))), row)
    rows = list(rows.values()) or table["rows"]
    if "settings" in table:
        tested = [row for row in rows if row.get("test") != "none" and row["experiment"] in table["experiments"]]
        rows = [new for setting in table["settings"] for row in tested if (new := varied(row, setting))]
    for name in sources_of(table):
        for row in tables[name].get("rows", []):
            for column, values in row.get("published", {}).items() if "claim" not in row else ():
                key = (tables[name]["experiment"], row["policy"], row.get("decoding", "token"), column)
                cells.setdefault(key, values)
    return table | {"rows": rows, "cells": cells}


def varied(row: dict, setting: dict) -> dict | None:
    """The row of a claim under a setting: its rewards, the decoding of mixtures, or its methods are others.

    None if the setting does not touch the claim. `of` is the row as claimed.
    """
    new = row | {"of": row, "setting": setting["name"]}
    others = setting.get("rewards", {})
    if "reward" in row:
        named = row["reward"]
        new["reward"] = [others.get(r, r) for r in named] if isinstance(named, list) else others.get(named, named)
    for key in ("decoding", "baseline_decoding"):
        if row.get(key) == "token":
            new[key] = setting.get("decoding", "token")
    if "methods" in setting:
        for key in ("policy", "baseline"):
            if key in row and row[key] != "reference":
                if row[key] not in setting["methods"]:
                    return None
                new[key] = setting["methods"][row[key]]
    asked = setting.keys() & {"rewards", "decoding", "methods"}
    return new if not asked or any(new[key] != row[key] for key in row) else None
