"""Recovery, likelihood and rewards, by how many comparisons of an annotator share a responsibility."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mixdpo.paper.fair_trial import style_recovered, trial
from mixdpo.paper.figures.style import (
    GREY,
    HEAD_COLOURS,
    LABEL_COLOURS,
    LABEL_LINES,
    LABEL_MARKERS,
    across,
    label_ends,
    letter,
)


def annotators(form: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """Against comparisons per annotator: (a) style and annotators recovered, with chance and ceiling; (b) gain in
    log P over the baseline, with the ceiling's; (c) best expert of each reward less the baseline, in σ."""
    ceiling = style_recovered(form, artifacts, form["ceiling"])
    rows = {row["comparisons"]: trial(form, artifacts, row["policy"], ceiling) for row in form["rows"]}
    above = trial(form, artifacts, form["ceiling"], ceiling)
    figure = across(2.5)
    axes, panels = figure.subplots(1, 3), []
    shown = {"recovered": "Triplets", "annotators": "Annotators"}
    panels.append(draw(axes[0], rows, shown, HEAD_COLOURS))
    rule(axes[0], above["recovered"]["mean"], "taught")
    rule(axes[0], rows[min(rows)]["recovered"]["chance"], "chance")
    axes[0].set(title="(a) Style recovered", ylabel="Share", ylim=(0, 1.02))
    panels.append(draw(axes[1], rows, {"gain": ""}, HEAD_COLOURS))
    rule(axes[1], above["gain"]["mean"], "taught")
    rule(axes[1], 0.0, "DPO")
    axes[1].set(title="(b) Likelihood beyond DPO", ylabel="Gain in −log P, nats")
    panels.append(draw(axes[2], rows, form["columns"], LABEL_COLOURS, LABEL_MARKERS, LABEL_LINES))
    rule(axes[2], 0.0, "DPO")
    axes[2].set(title="(c) Best expert − DPO", ylabel="Reward, σ")
    axes[1].set_xlabel("Comparisons per annotator (1: per triplet, as in the paper)")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xticks(list(rows), [str(m) for m in rows])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(x=0.08)
    return figure, numbers_of(panels, above, ceiling)
