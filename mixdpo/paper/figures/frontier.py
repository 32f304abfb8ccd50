"""Rewards over KL of experts and of the baseline, and what the experts gain at equal KL."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mixdpo.paper.fair_trial import as_line, sigma
from mixdpo.paper.figures.style import GREY, HEAD_COLOURS, HEAD_LINES, HEAD_MARKERS, across, letter
from mixdpo.paper.frontier import Frontier, at_equal_kl, frontier
from mixdpo.paper.text import number


def curves(form: dict, of: Frontier, names: list[str]) -> pd.DataFrame:
    """Means over seeds and prompts of each expert's rewards (y) and KL (x) at each scale."""
    lines = []
    for (p, scale), (k, name) in ((s, n) for s in enumerate(of.scales) for n in enumerate(names)):
        for r, reward in enumerate(form["columns"]):
            x, y = of.kl[p, ..., k].mean(), of.rewards[p, ..., k, r].mean()
            lines.append({"series": name, "reward": reward, "scale": scale, "x": x, "y": y})
    return pd.DataFrame(lines)


def differences(form: dict, own: Frontier, base: Frontier, names: list[str]) -> pd.DataFrame:
    """Each expert's reward less the baseline's at equal KL, in σ, with its interval."""
    gains, kl = at_equal_kl(own, base)
    unit, lines = sigma(base.rewards[-1, :, :, 0]), []
    for k, name in enumerate(names):
        for r, reward in enumerate(form["columns"]):
            found = as_line(gains[:, :, k, r] / unit[r])
            lines.append({"series": name, "reward": reward, "x": kl[:, k].mean(), "y": found.pop("mean")} | found)
    return pd.DataFrame(lines)


def frontier_map(form: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """A column per reward: above, reward over KL with a point per scale; below, experts less baseline at equal KL."""
    method = next(row["policy"] for row in form["rows"] if row["policy"] != "reference")
    own, base = (frontier(form, artifacts, name) for name in (method, form["baseline"]))
    heads = [f"Expert {k}" for k in range(own.kl.shape[-1])]
    points = pd.concat([curves(form, base, ["DPO"]), curves(form, own, heads)], ignore_index=True)
    gains = differences(form, own, base, heads)
    looks = dict(zip(heads, zip(HEAD_COLOURS, HEAD_MARKERS, HEAD_LINES))) | {"DPO": (GREY, ".", "-")}
    figure, columns = across(3.6), len(form["columns"])
    grid = figure.subplots(2, columns, height_ratios=(1.6, 1), squeeze=False)
    for axis in grid[1, 1:]:
        axis.sharey(grid[1, 0])
    for c, (reward, heading) in enumerate(form["columns"].items()):
        above, below = grid[:, c]
        for name, (colour, marker, dashes) in looks.items():
            part = points[(points["reward"] == reward) & (points["series"] == name)]
            look = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 4}
            above.plot(part["x"], part["y"], label=name, **look)
        above.set(title=f"({letter(c)}) {heading}", xlabel="KL(π ‖ π_ref), nats", xlim=(0, None))
        above.ticklabel_format(axis="y", useOffset=False)
        draw_gains(below, gains[gains["reward"] == reward], looks)
        below.set_title(f"({letter(columns + c)}) {heading} at equal KL")
    grid[0, 0].set_ylabel("Mean reward")
    grid[1, 0].set_ylabel("Expert − DPO, σ")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(looks))
    letters = {reward: letter(c) for c, reward in enumerate(form["columns"])}
    points["panel"] = points["reward"].map(letters)
    gains["panel"] = gains["reward"].map({reward: letter(columns + c) for c, reward in enumerate(form["columns"])})
    numbers = pd.concat([points, gains], ignore_index=True)
    first = ["panel", "series", "x", "y"]
    return figure, numbers[[*first, *numbers.columns.difference(first)]]


def draw_gains(axis, gains: pd.DataFrame, looks: dict) -> None:
    """A point with its interval for each expert, the KL of the comparison below its name."""
    for place, gain in enumerate(gains.itertuples()):
        colour, marker, _ = looks[gain.series]
        bars = [[gain.y - gain.low], [gain.high - gain.y]]
        axis.errorbar(place, gain.y, bars, color=colour, marker=marker, markersize=4, capsize=3, linewidth=1)
    axis.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    names = [f"{gain.series}\n{number(gain.x, 0)} nats" for gain in gains.itertuples()]
    axis.set_xticks(np.arange(len(names)), names)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.tick_params(axis="x", length=0)
