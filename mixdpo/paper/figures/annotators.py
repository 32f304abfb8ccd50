"""Recovery, likelihood and rewards, by how many comparisons of an annotator share a responsibility."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mixdpo.paper.fair_trial import style_recovered, trial
from mixdpo.paper.figures.style import (
    GREY,
    HEAD_COLOURS,
    HEAD_LINES,
    HEAD_MARKERS,
    LABEL_COLOURS,
    LABEL_LINES,
    LABEL_MARKERS,
    across,
    label_ends,
    letter,
)

HEADS = HEAD_COLOURS, HEAD_MARKERS, HEAD_LINES


def annotators(form: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """Against comparisons per annotator: (a) style and annotators recovered, with chance and the ceiling of experts
    taught their style; (b) gain in log P over the baseline; (c) best expert of each reward less the baseline, in σ."""
    ceiling = style_recovered(artifacts, form["ceiling"])
    rows = {row["comparisons"]: trial(form, artifacts, row["policy"], ceiling) for row in form["rows"]}
    taught, fewest = trial(form, artifacts, form["ceiling"], ceiling), rows[min(rows)]
    figure = across(2.5)
    axes = figure.subplots(1, 3)
    recovered = {"recovered": "Triplets", "annotators": "Annotators"}
    chance = {"taught": taught["recovered"]["mean"], "chance": fewest["recovered"]["chance"]}
    panels = [
        draw(axes[0], rows, recovered, chance),
        draw(axes[1], rows, {"gain": "Mix-DPO"}, {"taught": taught["gain"]["mean"], "DPO": 0.0}),
        draw(axes[2], rows, form["columns"], {"DPO": 0.0}, (LABEL_COLOURS, LABEL_MARKERS, LABEL_LINES)),
    ]
    axes[0].set(title="(a) Style recovered", ylabel="Share")
    axes[1].set(title="(b) Likelihood beyond DPO", ylabel="Gain in log P, nats")
    axes[2].set(title="(c) Best expert less DPO", ylabel="Reward, σ")
    axes[1].set_xlabel("Comparisons of an annotator that share a responsibility (1: the paper's reading)")
    numbers = pd.concat([lines.assign(panel=letter(i)) for i, lines in enumerate(panels)], ignore_index=True)
    first = ["panel", "series", "x", "y"]
    return figure, numbers[[*first, *numbers.columns.difference(first)]]


def draw(
    axis: Axes, rows: dict[int, dict], columns: dict[str, str], rules: dict[str, float], looks=HEADS
) -> pd.DataFrame:
    """A line with intervals for each of the columns, named at its end, and rules; gives the numbers drawn."""
    lines, ends = [], [(f" {name}", y, GREY) for name, y in rules.items()]
    apart = np.geomspace(0.93, 1 / 0.93, len(columns)) if len(columns) > 2 else [1.0] * len(columns)
    for (column, name), colour, marker, dashes, aside in zip(columns.items(), *looks, apart):
        own = [{"series": name, "x": m} | found[column] for m, found in rows.items() if column in found]
        own = pd.DataFrame(own, columns=["series", "x", "mean", "se", "low", "high"]).rename(columns={"mean": "y"})
        bars = [own["y"] - own["low"], own["high"] - own["y"]]
        look = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 4, "capsize": 2.5}
        axis.errorbar(own["x"] * aside, own["y"], bars, elinewidth=0.8, **look)
        ends += [(f" {name}", own["y"].iloc[-1], colour)] * len(own[-1:])
        lines.append(own)
    for y in rules.values():
        axis.axhline(y, color=GREY, linewidth=0.6, zorder=0)
    axis.set_xscale("log")
    axis.set_xticks(list(rows), [str(m) for m in rows])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.08)
    label_ends(axis, ends)
    rule = pd.DataFrame([{"series": name, "y": y} for name, y in rules.items()])
    return pd.concat([*lines, rule], ignore_index=True)
