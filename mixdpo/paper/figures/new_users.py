"""Accuracy for users unseen in training, and win rate, by how many of their comparisons are known."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mixdpo.paper.fair_trial import as_line
from mixdpo.paper.figures.style import GREY, HEAD_COLOURS, HEAD_LINES, HEAD_MARKERS, across, letter
from mixdpo.paper.new_users import SEEN, UNSEEN, WINS, by_known

DOTTED = (0, (1, 1.5))
PANELS = {
    UNSEEN: ("Accuracy, unseen prompts", "Share of comparisons"),
    SEEN: ("Accuracy, seen prompts", ""),
    WINS: ("Win rate over DPO", "Share of prompts"),
}


def new_users_curve(form: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """A panel for each column of the table: a line per method over m, and its seen users as a dotted one."""
    lines = []
    for row in form["rows"]:
        for users, values in by_known(form, artifacts, row).items():
            m = float(users.partition("m = ")[2] or "nan")
            for i, column in enumerate(PANELS):
                if column in values:
                    line = as_line(values[column], shares=True)
                    about = {"panel": letter(i), "series": row["name"], "x": m, "y": line.pop("mean")}
                    lines.append(about | {"users": users.partition(",")[0]} | line)
    numbers = pd.DataFrame(lines)
    figure = across(2.7)
    axes = figure.subplots(1, len(PANELS))
    axes[0].sharey(axes[1])
    for i, (axis, (title, label)) in enumerate(zip(axes, PANELS.values(), strict=True)):
        draw(axis, numbers[numbers["panel"] == letter(i)], [row["name"] for row in form["rows"]])
        axis.set(title=f"({letter(i)}) {title}", ylabel=label)
        axis.set_xticks(form["comparisons"])
    for axis in axes[1:]:
        axis.set_ylim(max(0, axis.get_ylim()[0]), min(1.02, axis.get_ylim()[1]))
    axes[2].axhline(0.5, color=GREY, linewidth=0.6, zorder=0)
    axes[1].set_xlabel("Known comparisons of an unseen user")
    lines, names = axes[0].get_legend_handles_labels()
    lines.append(Line2D([], [], color=GREY, linestyle=DOTTED, linewidth=1))
    figure.legend(lines, [*names, "users seen in training"], loc="outside upper center", ncols=len(lines))
    return figure, numbers


def draw(axis: Axes, numbers: pd.DataFrame, names: list[str]) -> None:
    """Unseen users over m with intervals, seen users as a line across."""
    apart = 0.012 * numbers["x"].max() * (np.arange(len(names)) - (len(names) - 1) / 2)
    for name, aside, colour, marker, dashes in zip(names, apart, HEAD_COLOURS, HEAD_MARKERS, HEAD_LINES):
        own = numbers[numbers["series"] == name]
        new, seen = own[own["users"] == "unseen"], own[own["users"] == "seen"]
        bars = [new["y"] - new["low"], new["high"] - new["y"]]
        look = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 4, "capsize": 2.5}
        axis.errorbar(new["x"] + aside, new["y"], bars, elinewidth=0.8, label=name, **look)
        for y in seen["y"]:
            axis.axhline(y, color=colour, linestyle=DOTTED, linewidth=1)
