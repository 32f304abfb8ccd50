"""Claimed against measured effects of every claim, on one scale."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE
from matplotlib.patches import Patch

from mixdpo.paper.claims import judged
from mixdpo.paper.figures.style import GREY, WIDTH, letter

VERDICTS = {"supported": ("o", "#0072B2"), "undecided": ("|", "#404040"), "not supported": ("X", "#C75000")}
VERDICTS |= {"not judged": ("s", "#6E6E6E")}
"""Marker and colour of a verdict; the markers alone tell them apart in grey."""
PUBLISHED = {"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 4.2, "linestyle": ""}
BAND = "#F1F1F1"
MARGIN = "#CFCFCF"
LINE = 8.2
"""Points from line to line."""
LABELS = 0.37
"""Share of the figure's width for the labels."""
PARTS = {"sigma": "Difference in σ (SD of the baseline's scores)", "share": "Share, or difference of shares"}


def forest(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """Every claim's effect with its 95 % interval, the published effect and the verdict, as the claims table has them.

    Claims about rewards are in σ, the SD of the baseline's scores, the others in shares. An effect beyond the
    `limits` of the axis is an arrow with its value, and an interval or a margin that is cut off ends in one. Claims
    without a test are named below.
    """
    claims = lines_of(table, judged(table, table["rows"], artifacts))
    tested = {part: claims[(claims["panel"] == letter(i))] for i, part in enumerate(PARTS)}
    untested = claims[claims["verdict"] == "not tested"]
    lengths = [len(own) + own["group"].nunique() for own in tested.values()]
    above, between, below = 30.0, 33.0, 27.0 + 8.5 * len(untested)
    height = LINE * sum(lengths) + above + between + below
    figure, top = Figure(figsize=(WIDTH, height / 72)), height - above
    for (part, own), length in zip(tested.items(), lengths):
        share = LINE * max(length, 1) / height
        axis = figure.add_axes((LABELS, top / height - share, 0.985 - LABELS, share))
        draw_claims(axis, own, part, table["limits"][part])
        axis.set_xlabel(PARTS[part], labelpad=2)
        top -= LINE * length + between
    draw_legend(figure)
    if len(untested):
        named = "\n".join(f"Not tested ({line.where}): {line.label}" for line in untested.itertuples())
        figure.text(0.01, 3 / height, named, va="bottom", fontsize=6.5, color=GREY)
    return figure, claims.drop(columns="where")


def lines_of(table: dict, cells: pd.DataFrame) -> pd.DataFrame:
    """One line a claim, in the order and with the labels of `table["groups"]`; others follow with their own text.

    `cells` are those of `claims.judged`. `effect_sigma`, `low_sigma`, `high_sigma` and `published_sigma` are in σ,
    `effect_share` and so on the numbers of claims about shares; `margin` is half the width of an equality's margin
    around `target`, in the same unit.
    """
    rows = {row["claim"]: row for row in table["rows"]}
    named = {claim: (group["name"], text) for group in table["groups"] for claim, text in group["claims"].items()}
    cells = cells.set_index("claim")
    order = [claim for claim in named if claim in cells.index] + [claim for claim in cells.index if claim not in named]
    lines = []
    for claim in order:
        cell, row = cells.loc[claim], rows[claim]
        group, label = named.get(claim, ("Further claims", cell["text"]))
        in_sigma = row.get("measure", "reward") == "reward"
        suffix, unit = ("sigma", cell["unit"]) if in_sigma else ("share", 1.0)
        panel = letter(list(PARTS).index(suffix)) if cell["verdict"] != "not tested" else ""
        line = {"panel": panel, "claim": claim, "label": label, "group": group, "verdict": cell["verdict"]}
        line |= {f"{name}_{suffix}": cell[name] / unit for name in ("effect", "low", "high")}
        line[f"published_{suffix}"] = cell["published_sigma"] if in_sigma else cell["published"]
        if row["test"] == "equal" and panel:
            line |= {"target": row["target"] / unit, "margin": row["margin"] / unit}
        lines.append(line | {"series": group, "where": cell["where"]})
    numbers = [f"{name}_{part}" for part in PARTS for name in ("effect", "low", "high", "published")]
    first = ["panel", "series", "claim", "label", "group", *numbers, "target", "margin", "verdict", "where"]
    return pd.DataFrame(lines).reindex(columns=first)


def draw_claims(axis: Axes, claims: pd.DataFrame, part: str, limits: tuple[float, float]) -> None:
    """A line per claim below the name of its group, on the scale of `limits`."""
    y, ticks = 0, []
    for i, (group, own) in enumerate(claims.groupby("group", sort=False)):
        if i % 2 == 0:
            axis.axhspan(y - 0.5, y + len(own) + 0.5, xmin=-1, color=BAND, linewidth=0, zorder=0, clip_on=False)
        label(axis, y, group, weight="bold")
        for line in own.to_dict("records"):
            y += 1
            label(axis, y, "   " + line["label"])
            draw_claim(axis, y, line, part, limits)
            ticks.append(y)
        y += 1
    axis.axvline(0, color=GREY, linewidth=0.6, zorder=1)
    axis.set(xlim=limits, ylim=(max(y, 1) - 0.5, -0.5), yticks=[])
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="x", length=2, pad=1.5)
    axis.patch.set_visible(False)


def label(axis: Axes, y: float, text: str, weight: str = "normal") -> None:
    """Text at the left edge of the figure, on the line y."""
    left = (0.01 - LABELS) / (0.985 - LABELS)
    axis.text(left, y, text, transform=axis.get_yaxis_transform(), va="center_baseline", fontsize=6.6, weight=weight)


def draw_claim(axis: Axes, y: float, line: dict, part: str, limits: tuple[float, float]) -> None:
    """Margin of an equality, published effect, and the measured one with its interval; arrows for what is outside."""
    effect, low, high, published = (line[f"{name}_{part}"] for name in ("effect", "low", "high", "published"))
    marker, colour = VERDICTS[line["verdict"]]
    if not np.isnan(line["margin"]):
        ends = line["target"] - line["margin"], line["target"] + line["margin"]
        axis.barh(y, ends[1] - ends[0], 0.8, ends[0], color=MARGIN, linewidth=0, zorder=1)
        cut_off(axis, y, ends, limits, MARGIN, 0.8 * LINE)
    if outside(published, limits):
        point_out(axis, y, published, limits, "black", "white")
    elif not np.isnan(published):
        axis.plot(published, y, zorder=3, clip_on=False, **PUBLISHED)
    if outside(effect, limits):
        point_out(axis, y, effect, limits, colour, colour)
        return
    axis.plot(np.clip([low, high], *limits), [y, y], color=colour, linewidth=1.4, solid_capstyle="butt", zorder=4)
    cut_off(axis, y, (low, high), limits, colour, 4.5)
    size = {"markersize": 7, "markeredgewidth": 1.4} if marker == "|" else {"markersize": 5, "markeredgewidth": 0.4}
    edge = colour if marker == "|" else "white"
    axis.plot(effect, y, marker, color=colour, markeredgecolor=edge, zorder=5, clip_on=False, **size)


def outside(value: float, limits: tuple[float, float]) -> bool:
    return value < limits[0] or value > limits[1]


def cut_off(
    axis: Axes, y: float, ends: tuple[float, float], limits: tuple[float, float], colour: str, size: float
) -> None:
    """A small arrow at each end of the axis that an interval or a margin from ends[0] to ends[1] passes."""
    passed = ends[0] < limits[0], ends[1] > limits[1]
    for place, marker, beyond in zip(limits, (CARETLEFTBASE, CARETRIGHTBASE), passed):
        if beyond:
            look = {"color": colour, "markersize": size, "markeredgewidth": 0, "clip_on": False}
            axis.plot(place, y, marker=marker, zorder=1 if colour == MARGIN else 4, **look)


def point_out(axis: Axes, y: float, value: float, limits: tuple[float, float], edge: str, face: str) -> None:
    """An arrow at the end of the axis that the value lies beyond, and the value."""
    right = value > limits[1]
    place, side, marker = (limits[1], -7, ">") if right else (limits[0], 7, "<")
    axis.plot(place, y, marker, markersize=4.5, markeredgecolor=edge, markerfacecolor=face, clip_on=False, zorder=5)
    text = f"{value:+.2f}".replace("-", "−")
    how = {"textcoords": "offset points", "va": "center_baseline", "ha": "right" if right else "left"}
    axis.annotate(text, (place, y), (side, 0), fontsize=6.5, color=edge, zorder=5, **how)


def draw_legend(figure: Figure) -> None:
    """What the markers mean, above all."""
    size = {"|": 7}
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=size.get(marker, 5), linewidth=1.4, label=verdict)
        for verdict, (marker, colour) in VERDICTS.items()
    ]
    handles += [
        Line2D([], [], label="published", **PUBLISHED),
        Patch(color=MARGIN, label="margin of an equality"),
        Line2D([], [], color=GREY, marker=">", markersize=4.5, linestyle="", label="beyond the axis"),
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(handles),
        columnspacing=1.0,
        handlelength=1.6,
        title="Measured effect with 95 % interval, by verdict:",
        title_fontsize=7,
        alignment="left",
        borderaxespad=0.3,
    )
