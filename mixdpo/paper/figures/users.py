"""The poster's figure: users by their reward differences under the experts."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from mixdpo.paper.figures.style import LABEL_COLOURS, LABEL_MARKERS, across, folders, letter
from mixdpo.paper.scores import triplets_of


def user_rewards(responsibilities: pd.DataFrame) -> pd.DataFrame:
    """One row per user: user, style, triplets (how many), margin0 to marginK−1, means over the triplets."""
    margins = responsibilities.filter(regex="^margin[0-9]+$")
    users = responsibilities[["user", "style"]].join(margins).groupby(["user", "style"])
    return pd.concat([users.size().rename("triplets"), users.mean()], axis=1).reset_index()


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two of (N, K): places (N, 2) and the shares of variance that they explain, (2,)."""
    pca = PCA(n_components=2, svd_solver="full")
    with threadpool_limits(1):  # the threads change the last bits
        return pca.fit_transform(vectors), pca.explained_variance_ratio_


def user_map(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """A panel per method, of its first seed: users by their mean reward differences under the K experts, by PCA.

    A reward difference is β (log_ratio⁺ − log_ratio⁻) of an expert on a validation triplet of the user.
    """
    lines, known = [], {}
    figure = across(3.0)
    axes = figure.subplots(1, len(table["rows"]), squeeze=False)[0]
    for panel, (row, axis) in enumerate(zip(table["rows"], axes)):
        folder = next(iter(folders(artifacts, "policies", row["policy"]).values()))
        users = user_rewards(triplets_of(folder, "validation"))
        places, explained = principal_components(users.filter(regex="^margin").to_numpy())
        users["x"], users["y"] = places.T
        for style, colour, marker in zip(table["styles"], LABEL_COLOURS, LABEL_MARKERS):
            if len(own := users[users["style"] == style]):
                look = {"s": 26, "color": colour, "marker": marker, "linewidths": 0.4, "edgecolors": "white"}
                known[style] = axis.scatter(own["x"], own["y"], **look)
        axis.set(**{f"{x}label": f"PC {i} ({100 * s:.0f} % of variance)" for i, x, s in zip((1, 2), "xy", explained)})
        axis.set_aspect("equal", adjustable="datalim")  # the limits give way, so that the panels fill the width
        axis.locator_params(nbins=6, steps=[1, 2, 5, 10])
        if len(axes) > 1:
            axis.set_title(f"({letter(panel)}) {row['name']}")
        users["explained_x"], users["explained_y"] = explained
        lines.append(users.assign(panel=letter(panel), method=row["policy"]))
    marks = {style.replace("_", " ").capitalize(): known[style] for style in table["styles"] if style in known}
    axes[-1].legend(marks.values(), marks, loc="center left", bbox_to_anchor=(1.02, 0.5), handletextpad=0.2)
    numbers = pd.concat(lines, ignore_index=True).rename(columns={"style": "series"})
    first = ["panel", "series", "x", "y", "method", "user", "triplets", "explained_x", "explained_y"]
    return figure, numbers[[*first, *numbers.columns.difference(first)]]
