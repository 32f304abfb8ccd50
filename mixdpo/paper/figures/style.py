"""How every figure looks: sizes, colours, markers, and the folders of a method's seeds.

A head has the same colour, line and marker everywhere, and nothing is told by colour alone.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from mixdpo.paper.scores import policies_in

HEAD_COLOURS = ("#0072B2", "#C75000", "#007D5C", "#7A3E9D")
"""Head 0 and on; all are legible as text on white (contrast ≥ 4.5)."""
HEAD_MARKERS = ("o", "^", "s", "D")
HEAD_LINES = ("-", "--", "-.", ":")
LABEL_COLOURS = ("#B87200", "#000000", "#B0467F", "#2A7FBF")
"""For styles or domains, in the order of the YAML file."""
LABEL_LINES = ("-", "--", "-.", ":")
LABEL_MARKERS = ("v", "P", "X", "p")
"""For styles or domains; no head has any of these."""
GREY = "#6E6E6E"
WIDTH = 7.0
"""Inches, of every figure: the text width of a two-column page."""
FONT = FontProperties(fname=f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
}


def across(height: float) -> Figure:
    """A figure as wide as the text and `height` inches high, so that type has the same size in all."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def folders(artifacts: dict[str, Path], stage: str, method: str) -> dict[str, Path]:
    """Folders of one stage of a method's policies, by policy; the first training seed first."""
    return {policy: artifacts[f"{stage}:{policy}"] for policy in policies_in(artifacts, method, stage)}


def letter(panel: int) -> str:
    return "abcdefgh"[panel]


def label_ends(axis: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write (text, y, colour) right of the axes at the height y, moved apart where two texts would touch.

    Call it when the limits of the axis stand.
    """
    low, high = axis.get_ylim()
    height = axis.get_position().height * axis.figure.get_figure(root=True).get_figheight() * 72  # points, nearly
    gap, ends = 1.3 * STYLE["legend.fontsize"] * (high - low) / height, sorted(ends, key=lambda end: end[1])
    places = np.array([y for _, y, _ in ends])
    for _ in range(100):
        overlap = gap - np.diff(places)
        if (overlap <= 1e-9 * gap).all():
            break
        push = np.clip(overlap, 0, None) / 2
        places[:-1] -= push
        places[1:] += push
    for (text, _, colour), y in zip(ends, places):
        axis.annotate(
            text,
            (1.02, y),
            xycoords=("axes fraction", "data"),
            color=colour,
            va="center_baseline",
            fontsize=7,
            clip_on=False,
        )
