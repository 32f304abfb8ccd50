"""Figure 4: confusion matrices of two gates, and their difference."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixdpo.data.statistics import mean_and_se
from mixdpo.paper.figures.style import across, letter
from mixdpo.paper.figures.tasks import prompt_weights
from mixdpo.paper.scores import difference as gain_by_seed
from mixdpo.run.layout import split_policy

RANGE = 0.5
"""Shares that differ by this much or more have full colour, in every run."""
SAME = "Both gates have\nthe same shares\nin every cell."


def confusion_matrix(weights: pd.DataFrame, domains: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Prompts of each domain (rows) by the domain whose expert weighs most (columns), over all seeds: (D, D).

    Expert k stands for domain k. The second value says which are right, (seeds × prompts).
    """
    truth = weights["domain"].map(domains.index).to_numpy()
    chosen = weights[[f"w{k}" for k in range(len(domains))]].to_numpy().argmax(axis=1)
    counts = np.zeros((len(domains), len(domains)), dtype=int)
    np.add.at(counts, (truth, chosen), 1)
    seeds = weights["policy"].map(lambda policy: split_policy(policy)[1]).rename("seed")
    right = pd.Series(truth == chosen, dtype=float).groupby([seeds.to_numpy(), weights["prompt_id"].to_numpy()])
    return counts, right.mean().unstack()


def confusion(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """Confusion matrices of two gates on the test prompts, rows as shares with counts, and their difference.

    If no share differs, a sentence says so in place of the differences.
    """
    domains, shares, right, lines = table["domains"], [], [], []
    figure = across(2.3)
    axes = figure.subplots(1, 3)
    for panel, row in enumerate(table["rows"]):
        counts, correct = confusion_matrix(prompt_weights(artifacts, row["policy"]), domains)
        share = counts / counts.sum(axis=1, keepdims=True)
        mean, se = mean_and_se(correct)
        axes[panel].set_title(f"({letter(panel)}) {row['name']}\naccuracy {mean:.3f} ± {se:.3f}")
        notes = [[f"{s:.3f}\nn = {n:,}" for s, n in zip(*line)] for line in zip(share, counts)]
        draw_matrix(axes[panel], share, notes, domains, cmap="Greys", vmin=0, vmax=2)  # light, under text
        shares.append(share)
        right.append(correct)
        lines += cells(panel, row["name"], domains, share, mean, se, counts)
    difference = shares[1] - shares[0]
    mean, se = mean_and_se(gain_by_seed(right[1], right[0]))
    gain = f"{mean:+.3f} ± {se:.3f}".replace("-", "−")
    axes[2].set_title(f"(c) Difference, (b) − (a)\naccuracy {gain}")
    notes = [[f"{value:+.3f}".replace("-", "−") if difference.any() else "" for value in line] for line in difference]
    draw_matrix(axes[2], difference, notes, domains, cmap="PuOr", vmin=-RANGE, vmax=RANGE)
    if not difference.any():
        axes[2].text(0.5, 0.5, SAME, transform=axes[2].transAxes, ha="center", va="center")
    axes[0].set_ylabel("Domain of the test prompt")
    axes[1].set_xlabel("Domain of the expert with the largest mixture weight")
    return figure, pd.DataFrame(lines + cells(2, "difference", domains, difference, mean, se))


def cells(panel: int, series: str, domains, share, accuracy: float, se: float, counts=None) -> list[dict]:
    """One row per cell: x is the domain of the chosen expert, y that of the prompt."""
    return [
        {
            "panel": letter(panel),
            "series": series,
            "x": chosen,
            "y": truth,
            "share": share[i, j],
            "prompts": pd.NA if counts is None else counts[i, j],
            "accuracy": accuracy,
            "se": se,
        }
        for i, truth in enumerate(domains)
        for j, chosen in enumerate(domains)
    ]


def ink(colour: Sequence[float]) -> str:
    """Black or white, whichever has the larger contrast with `colour` (RGB in 0 to 1); that is at least 4.5.

    Contrast is (L₁ + 0.05)/(L₂ + 0.05) of relative luminances (WCAG 2.1), and black and white tie at √(1.05 · 0.05).
    """
    channels = np.asarray(colour[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return "black" if np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05 > np.sqrt(1.05 * 0.05) else "white"


def draw_matrix(axis: Axes, values: np.ndarray, notes: list[list[str]], domains: Sequence[str], **colours) -> None:
    """Cells in colour with their notes."""
    image = axis.imshow(values, **colours)
    for (i, j), value in np.ndenumerate(values):
        axis.text(j, i, notes[i][j], ha="center", va="center", color=ink(image.cmap(image.norm(value))))
    names = [f"{domain.capitalize()} ({k})" for k, domain in enumerate(domains)]
    axis.set_xticks(range(len(domains)), names)
    axis.set_yticks(range(len(domains)), names, rotation=90, va="center")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(True)
