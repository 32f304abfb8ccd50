"""A verdict for every claim of the paper, and the claims under other settings."""

from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import equivalence, holm
from mixdpo.paper import measures
from mixdpo.paper.table import Row, Table
from mixdpo.paper.text import interval, number, p_value, show
from mixdpo.run.kinds import in_words, within

ALPHA = 0.05
CLAIM_COLUMNS = ["claim", "text", "where", "published", "experiment", "test", "effect", "se", "low", "high", "p"]
CLAIM_COLUMNS += ["p_holm", "n", "seeds", "verdict"]
IN_SIGMA = ["effect_sigma", "low_sigma", "high_sigma", "published_sigma"]
SIGNS = {"supported": "✓", "not supported": "✗", "undecided": "?", "not judged": "○"}


def claims_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """A line and a verdict for every claim.

    `effect` is in the units of its measure, `published` in those of the paper; p is corrected by Holm for all
    claims that are judged. `seeds` is how many trainings are behind a claim, 0 if none takes part. For rewards,
    columns that end in `sigma` give the same in SDs of the baseline's scores.
    """
    found = judged(form, form["rows"], artifacts)
    records = found[[*CLAIM_COLUMNS, "reason", *IN_SIGMA]].to_dict("records")
    table = Table(types={"n": "Int64", "seeds": "Int64"}, records=records)
    heading = f"p (Holm, {found['p'].count()})"
    for entry, line, record in zip(form["rows"], found.to_dict("records"), records, strict=True):
        print_claim(table.row(entry["claim"], **samples_of(entry)), entry, line, [record], heading)
    return table


def print_claim(row: Row, entry: dict, line: dict, records: list[dict], p_heading: str) -> None:
    published = [] if line["shown_published"] == "–" else [line["shown_published"]]
    row.label("Claim", line["text"])
    row.label("Where", line["where"])
    row.number("Ours", line["shown"], records, published, column="effect", above_published="Published")
    row.number("95 % interval", interval(line["low"], line["high"], sign_of(entry)), records, column="low")
    row.number(p_heading, p_value(line["p_holm"]), records, column="p_holm")
    row.number("n", number(line["n"], 0))
    row.text("Verdict", line["verdict"] + (f": {line['reason']}" if line["reason"] else ""), records, column="verdict")


def samples_of(entry: dict) -> dict[str, str]:
    """Whose completions stand behind a claim on rewards."""
    if "reward" not in entry or entry["test"] == "none":
        return {}
    about = {"experiment": entry["experiment"], "policy": entry["policy"], "decoding": entry.get("decoding", "token")}
    return about | {"domain": entry.get("domain")}


def sensitivity_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """The claims under every setting, corrected by Holm within it; a claim that no setting touches is left out."""
    names = [setting["name"] for setting in form["settings"]]
    rows = {name: [row for row in form["rows"] if row["setting"] == name] for name in names}
    found = pd.concat([judged(form, rows[name], artifacts).assign(setting=name) for name in names if rows[name]])
    touched = found.groupby("claim", sort=False)["setting"].nunique()
    found = found[found["claim"].isin(touched.index[touched > 1])]
    table = Table(records=found[["setting", *CLAIM_COLUMNS]].to_dict("records"))
    for claim in dict.fromkeys(found["claim"]):
        own = {line["setting"]: line for line in table.records if line["claim"] == claim}
        row = table.row(claim)
        row.label("Claim", next(iter(own.values()))["text"])
        for name in names:
            line = own.get(name)
            shown = f"{SIGNS[line['verdict']]} {number(line['effect'], 3, '+')}" if line else "–"
            row.number(name, shown, [line] if line else [])
    return table


def judged(form: dict, rows: list[dict], artifacts: dict[str, Path]) -> pd.DataFrame:
    """Effect, p, correction and verdict of the claims in `rows`, with what is shown of them."""
    rows, lines = [testable(row, form["experiments"]) for row in rows], []
    for row in rows:
        line = {key: row[key] for key in ("claim", "text", "where", "test")} | {"experiment": row.get("experiment", "")}
        value, se, deviations = published_effect(form, row)
        line |= {"published": value, "published_sigma": deviations}
        line["shown_published"] = show_claim(row, value, se, deviations)
        if row["test"] == "none":
            line |= dict.fromkeys(
                ("effect", "se", "low", "high", "p", "n", "seeds", "size", "unit", *IN_SIGMA[:3]), np.nan
            )
            line["shown"] = "–"
        else:
            measure = row.get("measure", "reward")
            found, unit = getattr(measures, measure)(row, within(artifacts, row["experiment"]), form["seed"])
            size = value if "published" in row.get("of", row) else deviations * unit
            line |= vars(found) | {"size": row.get("smallest", size), "unit": unit}
            own = unit if measure == "reward" else np.nan
            line |= {f"{key}_sigma": line[key] / own for key in ("effect", "low", "high")}
            line["shown"] = show_claim(row, found.effect, found.se, line["effect_sigma"])
            if row["test"] == "equal":
                line["p"] = equivalence(found, row["target"], row["margin"])
        lines.append(line)
    cells = pd.DataFrame(lines)
    cells["p_holm"] = holm(cells["p"])
    cells[["verdict", "reason"]] = [verdict(row, line) for row, line in zip(rows, cells.to_dict("records"))]
    return cells


def testable(row: dict, experiments: list[str]) -> dict:
    """The row of a claim, or of one that is not tested where the run leaves its experiment out."""
    if row["test"] == "none" or row["experiment"] in experiments:
        return row
    return row | {"test": "none", "reason": f"no part of this run: {in_words(row['experiment'])}"}


def sign_of(row: dict) -> str:
    """Differences have a sign, a level such as an accuracy has none."""
    return "-" if row.get("target") or row["test"] == "none" else "+"


def show_claim(row: dict, effect: float, se: float, deviations: float) -> str:
    """Effect ± SE, and the effect in SDs of the baseline; an effect over several rewards is in SDs already."""
    shown = show(effect, se, sign=sign_of(row))
    if np.isnan(deviations):
        return shown
    return f"{shown} σ" if isinstance(row["reward"], list) else f"{shown} ({number(deviations, 2, '+')} σ)"


def verdict(row: dict, found: dict) -> tuple[str, str]:
    """The verdict of a claim, and the reason if it is not `supported`.

    A claim about what was trained is not judged by a single seed. A direction is supported if p after Holm is below
    ALPHA and the interval lies on the claimed side of zero, and not supported if they say so of the other side. It
    is not supported either if the interval reaches zero and falls short of `size`, the published effect carried
    over in SDs, whatever its sign (the paper's cells may contradict its words), or if it falls short of the row's
    `smallest`, the least effect that the words allow. An equality is supported if TOST is significant after Holm,
    and not supported if the interval lies outside the margin. Everything else is undecided: the data are too few.
    """
    if row["test"] == "none":
        return "not tested", row["reason"]
    if found["seeds"] == 1:
        return "not judged", "one seed"
    if row["test"] == "equal":
        low, high = (row["target"] + side * row["margin"] for side in (-1, 1))
        if found["p_holm"] < ALPHA:
            return "supported", ""
        outside = found["high"] < low or found["low"] > high
        return ("not supported", "outside the margin") if outside else ("undecided", "interval crosses the margin")
    direction = 1 if row["test"] == "greater" else -1
    low, high = sorted((direction * found["low"], direction * found["high"]))
    significant = found["p_holm"] < ALPHA
    if significant and high < 0:
        return "not supported", "the opposite"
    if (low <= 0 or "smallest" in row) and high < abs(found["size"]):
        return "not supported", "smaller than claimed"
    if significant and low > 0:
        return "supported", ""
    return "undecided", "the interval includes zero" if low <= 0 <= high else "not significant after Holm"


def published_effect(form: dict, row: dict) -> tuple[float, float, float]:
    """The effect that the paper prints for a claim: the effect, its SE, and the effect in SDs of the baseline; else
    NaN.

    It follows from the published cells of policy and baseline; the SD of a cell is SE·√n over the paper's prompts. Of
    several rewards it is the mean in SDs. A claim may print its own (`published`), and choose among places (`cell`).
    """
    row = row.get("of", row)
    if "published" in row:
        return row["published"]["effect"], row["published"].get("se", np.nan), np.nan
    if row.get("measure", "reward") != "reward" or row["test"] == "none":
        return np.nan, np.nan, np.nan
    several, effects = isinstance(row["reward"], list), []
    for reward in row["reward"] if several else [row["reward"]]:
        column = row.get("domain", reward)
        mean, se, _ = published_level(form, row, row["policy"], row.get("decoding", "token"), column)
        base, base_se, sd = published_level(form, row, row["baseline"], row.get("baseline_decoding", "token"), column)
        effects.append((mean - base, np.hypot(se, base_se), sd * np.sqrt(form["published_prompts"][row["experiment"]])))
    effect, se, sd = np.array(effects).T
    deviations = float(np.mean(effect / sd))
    if several:
        return deviations, float(np.hypot.reduce(se / sd) / len(sd)), deviations
    return float(effect[0]), float(se[0]), deviations


def published_level(form: dict, row: dict, method: str, decoding: str, column: str) -> tuple[float, float, float]:
    """A published cell: mean, its SE, and the SE that stands for its spread.

    `best` and `rest` are over the experts' cells.
    """
    found = {
        key[2]: next((v for v in values if v["where"] == row.get("cell")), values[0])
        for key, values in form["cells"].items()
        if key[0] == row["experiment"] and key[1] == method and key[3] == column
    }
    if decoding not in ("best", "rest"):
        value = found.get(decoding)
        return (value["mean"], value["se"], value["se"]) if value else (np.nan, np.nan, np.nan)
    experts = sorted((v["mean"], v["se"]) for name, v in found.items() if name.startswith("expert"))
    if not experts:
        return np.nan, np.nan, np.nan
    means, ses = np.array(experts).T
    typical = float(np.median(ses))
    if decoding == "best":
        return means[-1], ses[-1], typical
    return float(means[:-1].mean()), float(np.sqrt(np.sum(ses[:-1] ** 2)) / (len(ses) - 1)), typical
