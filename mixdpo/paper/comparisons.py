"""Every method and decoding against a baseline over the same prompts, beside the differences that the paper prints."""

from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import Effect, against_published, hierarchical, holm, mean_and_se, paired
from mixdpo.paper.scores import by_seed, difference, samples
from mixdpo.paper.table import Row, Table
from mixdpo.paper.text import interval, number, p_value, show


def comparisons_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Every row against the baseline over the same prompts, beside the difference that the paper prints.

    With several seeds they are the unit; with one, the p is Wilcoxon's over prompts, and speaks of these trained
    policies alone. One line per row, column and published value. `z` and `z_p` test our difference against the
    published one, `level_z` and `level_p` our mean against the published mean, all with both standard errors;
    `p_holm` is corrected for the `comparisons` of the table.
    """
    baselines = {
        column: column_scores(form, artifacts, form["baseline"], "token", column) for column in form["columns"]
    }
    found = []
    for entry in form["rows"]:
        for column in form["columns"] if entry["policy"] != form["baseline"] else ():
            baseline = baselines[column]
            ours = column_scores(form, artifacts, entry["policy"], entry.get("decoding", "token"), column)
            mean, se = mean_and_se(ours)
            line = {"row": entry["name"], "column": column, "reward": form.get("reward", column)}
            line |= {"mean": mean, "mean_se": se} | vars(compared(difference(ours, baseline), form["seed"]))
            found.append((entry, line))
    table, corrected = Table(), holm([line["p"] for _, line in found])
    for (entry, line), p_holm in zip(found, corrected, strict=True):
        row = table.row(line["row"], experiment=form["experiment"], policy=entry["policy"])
        print_comparison(row, form, entry, line | {"p_holm": p_holm, "comparisons": len(found)})
    return table


def compared(values: pd.DataFrame, seed: int) -> Effect:
    """The effect of differences, (seeds × prompts)."""
    return hierarchical(values) if len(values) > 1 else paired(values.iloc[0], np.zeros(values.shape[1]), seed)


def print_comparison(row: Row, form: dict, entry: dict, line: dict) -> None:
    """The cells of a row and column: what was found, and how it compares with each published value."""
    values = published_cells(form, entry, line["column"])
    records = [line | against(line, value) for value in values or [{}]]
    printed: dict[tuple[str, str], str] = {}  # difference and z as text → the first place that prints them
    for value, record in zip(values, records):
        printed.setdefault((show(value["effect"], value["se"], sign="+"), number(record["z"], 1, "+")), value["where"])
    several = len(printed) > 1
    published, z = ([v[i] + (f" ({place})" if several else "") for v, place in printed.items()] for i in (0, 1))
    about = {"column": line["column"], "decoding": entry.get("decoding", "token")}
    about["domain"] = line["column"] if "reward" in form else None
    row.label("Model")
    row.label("Score", form["columns"][line["column"]])
    shown = show(line["effect"], line["se"], sign="+")
    row.number("Difference", shown, records, published, above_published="Published difference", **about)
    row.number("95 % interval", interval(line["low"], line["high"]), records, **about)
    row.number("p", p_value(line["p"]), records, **about)
    row.number(f"p (Holm, {line['comparisons']})", p_value(line["p_holm"]), records, **about)
    row.number("z against the published", "; ".join(z) or "–", records if values else (), **about)
    row.number("n", line["n"])


def against(line: dict, value: dict) -> dict:
    """Our difference and mean against a published value, NaN without one."""
    effect, se, mean, mean_se = (value.get(key, np.nan) for key in ("effect", "se", "mean", "mean_se"))
    z, z_p = against_published(line["effect"], line["se"], effect, se)
    level_z, level_p = against_published(line["mean"], line["mean_se"], mean, mean_se)
    told = {"published": effect, "published_se": se, "published_where": value.get("where", np.nan)}
    return told | {"z": z, "z_p": z_p, "level_z": level_z, "level_p": level_p}


def column_scores(form: dict, artifacts: dict[str, Path], method: str, decoding: str, column: str) -> pd.DataFrame:
    """Scores of a column, (seeds × prompts): a reward, or the table's one `reward` on the prompts of a domain."""
    frame = samples(artifacts, method, decoding)
    if "reward" in form:
        return by_seed(frame[frame["domain"] == column], form["reward"])
    return by_seed(frame, column)


def published_cells(form: dict, entry: dict, column: str) -> list[dict]:
    """Published mean of a row with its SE, and its difference to the baseline's: one for every place in print."""
    baseline = form["cells"].get((form["experiment"], form["baseline"], "token", column), [])
    return [
        {
            "mean": value["mean"],
            "mean_se": value["se"],
            "effect": value["mean"] - baseline[0]["mean"],
            "se": float(np.hypot(value["se"], baseline[0]["se"])),
            "where": value["where"],
        }
        for value in (entry.get("published", {}).get(column, []) if baseline else [])
    ]
