"""Figure 1: posterior weights over training by style, and what the heads' parameters have learned."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from mixdpo.paper.figures.style import (
    GREY,
    HEAD_COLOURS,
    HEAD_LINES,
    HEAD_MARKERS,
    STYLE,
    across,
    folders,
    label_ends,
    letter,
)
from mixdpo.paper.scores import head_order, learned_differences, moved_rows

PAPER = {"s": 16, "marker": "<", "facecolor": "white", "linewidths": 0.9}
"""Marker of a value in print, with the edge in the head's colour."""


def posterior_curves(table: dict, artifacts: dict[str, Path], labels: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """Mean over seeds of the responsibilities of the minibatches' triplets, and the window of their rolling mean.

    A point is the mean of the last `table["smoothing"]` of the run's steps, without minibatches that lack the label,
    and the curve starts when the window is full. Columns head, label, x (step), y, sd over seeds, seeds.
    """
    method, frames = table["rows"][0]["policy"], []
    orders = head_order(artifacts, method)
    for policy, folder in folders(artifacts, "policies", method).items():
        curve = pd.read_csv(folder / "curve.csv", index_col="step")
        window = max(1, round(table["smoothing"] * len(curve)))
        for head, k in enumerate(orders[policy]):
            for label in labels:
                y = curve[f"q{k} {label}"].rolling(window, min_periods=1).mean().iloc[window - 1 :]
                frames.append(pd.DataFrame({"head": head, "label": label, "x": y.index, "y": y.to_numpy()}))
    grouped = pd.concat(frames).groupby(["head", "label", "x"], sort=False)["y"]
    return grouped.agg(y="mean", sd="std", seeds="size").reset_index(), window


def step_label(points: pd.DataFrame, window: int) -> str:
    """What the axis of training steps says of the curves' smoothing and their band."""
    seeds = int(points["seeds"].max())
    told = [f"rolling mean of {window} steps"] * (window > 1) + [f"band: SD of {seeds} seeds"] * (seeds > 1)
    return "Training step" + (f" ({'; '.join(told)})" if told else "")


def draw_curve(axis: Axes, line: pd.DataFrame, colour: str, style: str) -> None:
    """One curve with the band of its SD over seeds."""
    axis.plot(line["x"], line["y"], color=colour, linestyle=style)
    axis.fill_between(line["x"], line["y"] - line["sd"], line["y"] + line["sd"], color=colour, alpha=0.2, linewidth=0)


def draw_styles(figure: SubFigure, points: pd.DataFrame, window: int, published: Sequence[float]) -> None:
    """A panel per style, a line per head, 1/K, and the paper's last values. If styles do not matter, panels look
    alike."""
    heads, styles = points["head"].nunique(), points["label"].unique()
    axes = figure.subplots(1, len(styles), sharey=True, squeeze=False)[0]
    for panel, (style, axis) in enumerate(zip(styles, axes)):
        own = points[points["label"] == style]
        for head, line in own.groupby("head"):
            draw_curve(axis, line, HEAD_COLOURS[head], HEAD_LINES[head])
        axis.axhline(1 / heads, color=GREY, linewidth=0.6, zorder=0, label=f"1/{heads}")
        for head, value in enumerate(published):
            axis.scatter(own["x"].max(), value, edgecolor=HEAD_COLOURS[head], clip_on=False, zorder=3, **PAPER)
        axis.set_title(f"({letter(panel)}) {style.capitalize()}")
        axis.set_xlim(0, own["x"].max())
        axis.locator_params(axis="x", nbins=4)
    axes[0].set_ylabel("Mean posterior weight $q_k$")
    figure.supxlabel(step_label(points, window), fontsize=STYLE["axes.labelsize"])
    ends = own[own["x"] == own["x"].max()]
    label_ends(axes[-1], [(f" Head {e.head}", e.y, HEAD_COLOURS[e.head]) for e in ends.itertuples()])
    handles, names = axes[0].get_legend_handles_labels()
    if published:
        handles.append(axes[0].scatter([], [], edgecolor="black", **PAPER))
        names.append("Paper, end of training")
    figure.legend(handles, names, loc="outside upper center", ncols=2, handlelength=1.6)


def head_map(differences: np.ndarray, table: dict) -> pd.DataFrame:
    """t-SNE of the `moved_rows` of every head. One row per point: head, token (its id), x, y.

    `differences` is (K, V, d), heads as they are shown.
    """
    tokens = moved_rows(differences, table["rows_per_head"])
    rows = differences[:, tokens].reshape(-1, differences.shape[2])
    perplexity = min(table["perplexity"], (len(rows) - 1) / 3)
    with threadpool_limits(1):  # the threads change the last bits, and t-SNE amplifies them
        places = TSNE(perplexity=perplexity, init="pca", random_state=table["seed"]).fit_transform(rows)
    head = np.repeat(np.arange(len(differences)), len(tokens))
    return pd.DataFrame(
        {"head": head, "token": np.tile(tokens, len(differences)), "x": places[:, 0], "y": places[:, 1]}
    )


def sizes(learned: np.ndarray, injected: np.ndarray) -> dict[str, float]:
    """Root mean squares of what the heads learned, of that less its mean over heads, and of the noise at the start."""
    parts = {"learned": learned, "learned, differing by head": learned - learned.mean(axis=0), "injected": injected}
    return {name: float(np.sqrt(np.mean(np.square(part, dtype=float)))) for name, part in parts.items()}


def draw_heads(figure: SubFigure, places: pd.DataFrame, rms: dict[str, float], panel: int) -> None:
    """Open markers, smaller from head to head, so that points of the same place are all seen."""
    axis = figure.subplots()
    for head, own in places.groupby("head"):
        size = 14 / 2 ** (0.9 * head)
        look = {"facecolor": "none", "edgecolor": HEAD_COLOURS[head], "linewidths": 0.5, "s": size}
        axis.scatter(own["x"], own["y"], marker=HEAD_MARKERS[head], label=f"Head {head}", **look)
    axis.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    ratio, own = (100 * rms[part] / rms["injected"] for part in ("learned", "learned, differing by head"))
    axis.set_title(
        f"({letter(panel)}) Learned: $W_k - W_k(\\mathrm{{start}})$\n"
        f"RMS: {ratio:.2g} % of injected noise,\n{own:.2g} % where heads differ"
    )
    figure.legend(
        *axis.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(places["head"].unique()),
        markerscale=1.5,
        handletextpad=0,
        columnspacing=0.8,
    )


def posteriors(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """Posterior weights by style over training, every seed, and t-SNE of what the first seed's heads have learned.

    Learned is W_k − W_k(start): the noise that every head started from is drawn again and taken off.
    """
    points, window = posterior_curves(table, artifacts, table["rewards"])
    method, styles = table["rows"][0]["policy"], table["rewards"]
    policy, folder = next(iter(folders(artifacts, "policies", method).items()))
    order = head_order(artifacts, method)[policy]
    learned, injected = learned_differences(folder, artifacts[f"sft:{table['experiment']}"])
    places, rms = head_map(learned[order], table), sizes(learned, injected)
    printed = [entry["value"] for entry in table["published"]][: len(order)]

    figure = across(2.35)
    left, right = figure.subfigures(1, 2, width_ratios=(len(styles), 1.45))
    draw_styles(left, points, window, printed)
    draw_heads(right, places, rms, len(styles))

    points.insert(0, "panel", points.pop("label").map({style: letter(i) for i, style in enumerate(styles)}))
    points.insert(1, "series", points["head"].map("Head {}".format))
    paper = pd.DataFrame({"head": range(len(printed)), "y": printed, "series": "published, end of training"})
    paper = pd.concat([paper.assign(panel=letter(i)) for i in range(len(styles))])
    places["series"] = places["head"].map("Head {}".format)
    spread = pd.DataFrame({"series": [f"root mean square, {name}" for name in rms], "y": rms.values()})
    numbers = [points, paper, places.assign(panel=letter(len(styles))), spread.assign(panel=letter(len(styles)))]
    return figure, pd.concat(numbers, ignore_index=True).astype({"head": "Int64", "token": "Int64"})
