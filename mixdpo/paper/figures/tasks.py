"""Figure 3: posterior weights by domain over training, and the mixture weights that a gate gives each domain."""

import re
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from mixdpo.data.statistics import hierarchical, mean_and_se
from mixdpo.paper.figures.posteriors import draw_curve, posterior_curves, step_label
from mixdpo.paper.figures.style import (
    GREY,
    LABEL_COLOURS,
    LABEL_LINES,
    LABEL_MARKERS,
    across,
    folders,
    label_ends,
    letter,
)
from mixdpo.paper.scores import head_order


def prompt_weights(artifacts: dict[str, Path], method: str, orders: dict[str, list[int]] | None = None) -> pd.DataFrame:
    """Mixture weights of the test prompts, one row per prompt and seed: prompt_id, domain, w0 to wK−1 in head order."""
    frames = []
    for policy, folder in folders(artifacts, "completions", method).items():
        frame = pd.read_parquet(folder / "weights.parquet")
        heads = sum(bool(re.fullmatch(r"w\d+", name)) for name in frame)
        order = orders[policy] if orders else range(heads)
        shown = {f"w{head}": frame[f"w{k}"] for head, k in enumerate(order)}
        frames.append(frame[["prompt_id", "domain"]].assign(**shown, policy=policy))
    return pd.concat(frames, ignore_index=True)


def mean_weights(weights: pd.DataFrame, domains: list[str], shown: list[int]) -> pd.DataFrame:
    """Mean weight of each shown expert on each domain's prompts, with its 95 % interval (`hierarchical`; of one seed,
    t over prompts). Columns head, x (domain), y, se, low, high, n.
    """
    lines = []
    for k in shown:
        for domain in domains:
            own = weights[weights["domain"] == domain].pivot(index="policy", columns="prompt_id", values=f"w{k}")
            if len(own) > 1:
                found = hierarchical(own)
                mean, bounds = found.effect, {"se": found.se, "low": found.low, "high": found.high}
            else:
                mean, se = mean_and_se(own)
                half = se * stats.t.ppf(0.975, max(own.shape[1] - 1, 1))
                bounds = {"se": se, "low": mean - half, "high": mean + half}
            lines.append({"head": k, "x": domain, "y": mean} | bounds | {"n": own.shape[1]})
    return pd.DataFrame(lines)


def draw_means(axis: Axes, means: pd.DataFrame, domains: list[str], experts: int) -> None:
    """A point per domain with its interval and its value."""
    for i, domain in enumerate(domains):
        line = means[means["x"] == domain].iloc[0]
        look = {"color": LABEL_COLOURS[i], "marker": LABEL_MARKERS[i], "markersize": 5, "capsize": 3}
        axis.errorbar(i, line["y"], [[line["y"] - line["low"]], [line["high"] - line["y"]]], linewidth=1, **look)
        axis.annotate(f"{line['y']:.3f}", (i, line["y"]), (7, 0), textcoords="offset points", va="center")
    axis.axhline(1 / experts, color=GREY, linewidth=0.6, zorder=0)
    axis.set_xticks(range(len(domains)), [domain.capitalize() for domain in domains])
    axis.set_xlim(-0.5, len(domains) - 0.3)
    axis.tick_params(axis="x", length=0)


def tasks(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """Posterior weights by domain over training, and mixture weights of the test prompts of each domain (95 %).

    The last expert is not drawn: its weights are one less those of the others.
    """
    method, domains = table["rows"][0]["policy"], table["domains"]
    points, window = posterior_curves(table, artifacts, domains)
    experts = points["head"].nunique()
    shown = list(range(experts - 1))
    points = points[points["head"].isin(shown)]
    means = mean_weights(prompt_weights(artifacts, method, head_order(artifacts, method)), domains, shown)

    figure = across(2.0 * len(shown) + 0.2)
    grid = figure.subplots(len(shown), 2, width_ratios=(1.5, 1), sharey=True, squeeze=False)
    for k, (left, right) in zip(shown, grid):
        own = points[points["head"] == k]
        for i, domain in enumerate(domains):
            draw_curve(left, own[own["label"] == domain], LABEL_COLOURS[i], LABEL_LINES[i])
        left.axhline(1 / experts, color=GREY, linewidth=0.6, zorder=0)
        left.set(xlim=(0, own["x"].max()), ylabel=f"Weight of expert {k}")
        draw_means(right, means[means["head"] == k], domains, experts)
        right.tick_params(axis="y", labelleft=True)
        left.set_title(f"({letter(2 * k)}) Posterior weight $q_{k}$ of training triplets")
        right.set_title(f"({letter(2 * k + 1)}) Mixture weight $w_{k}(x)$ of test prompts")
        ends = own[own["x"] == own["x"].max()]
        names = [(f" {e.label.capitalize()}", e.y, LABEL_COLOURS[domains.index(e.label)]) for e in ends.itertuples()]
        label_ends(left, [*names, (f" 1/{experts}", 1 / experts, GREY)])
    left.set_xlabel(step_label(points, window))
    right.set_xlabel("Domain (mean, 95 % interval)")

    points = points.rename(columns={"label": "series"}).assign(panel=points["head"].map(lambda k: letter(2 * k)))
    means["panel"], means["series"] = means["head"].map(lambda k: letter(2 * k + 1)), "mixture weight"
    numbers = pd.concat([points, means], ignore_index=True)
    first = ["panel", "series", "head", "x", "y"]
    return figure, numbers[[*first, *numbers.columns.difference(first)]]
