"""Accuracy on held-out comparisons of users whose styles differ."""

from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.posterior import log_preference
from mixdpo.data.statistics import by_cluster
from mixdpo.paper.fair_trial import as_line
from mixdpo.paper.recovery import margins_of
from mixdpo.paper.scores import policies_in, triplets_of
from mixdpo.paper.table import Table
from mixdpo.paper.text import show
from mixdpo.run.kinds import in_words


def held_out_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Two rows a method, of seen and of unseen users: the share of a style's test comparisons with P > 1/2.

    `seen` users have comparisons in training, on other prompts. A row's `policies` name a policy for each style, with
    {style} in its place.
    """
    table = Table()
    styles = list(comparisons(form["rows"][0], artifacts, "test")[0]["style"].unique())
    for entry in form["rows"]:
        frames = comparisons(entry, artifacts, "test", styles)
        for seen, users in ((True, "seen"), (False, "unseen")):
            own = [frame[frame["seen"] == seen] for frame in frames]
            row = table.row(entry["name"], experiment=form["experiment"])
            row.label("Model")
            row.label("Users", users)
            for style, values in accuracies(own, styles).items():
                line = {"row": entry["name"], "users": users, "column": style} | as_line(values, shares=True)
                heading = in_words(style).capitalize()
                row.number(heading, show(line["mean"], line["se"]), [line], column=style)
            prompts, seeds = own[0]["prompt"].nunique(), len(own)
            row.number("n (seeds, prompts, comparisons)", f"{seeds}, {prompts}, {len(own[0])}")
    return table


def comparisons(entry: dict, artifacts: dict[str, Path], split: str, styles: list[str] = ()) -> list[pd.DataFrame]:
    """The comparisons of a split with the margins and weights w of the experts of a row's policy, one frame per seed;
    each style's from its own policy where the row names one for each."""
    if "policies" in entry:
        rows = [{"policy": entry["policies"].format(style=style)} for style in styles]
        parts = [comparisons(row, artifacts, split) for row in rows]
        parts = [[f[f["style"] == style] for f in frames] for style, frames in zip(styles, parts, strict=True)]
        return [pd.concat(seed, ignore_index=True) for seed in zip(*parts, strict=True)]
    return [triplets_of(artifacts[f"policies:{policy}"], split) for policy in policies_in(artifacts, entry["policy"])]


def weights_of(frame: pd.DataFrame) -> np.ndarray:
    """(comparisons, K), in the order of the experts."""
    return frame[[f"w{k}" for k in range(margins_of(frame).shape[1])]].to_numpy()


def right(weights: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """1 where P of (5) is above 1/2, 1/2 where it is 1/2, else 0: weights and margins (…, K) → (…)."""
    return (1 + np.sign(log_preference(weights, margins) - np.log(0.5))) / 2


def accuracies(frames: list[pd.DataFrame], styles: list[str]) -> dict[str, list[np.ndarray]]:
    """Style, and `mean` of the styles → values (seeds, prompts) whose mean is the share that is right."""
    prompts = sorted(set().union(*(frame["prompt"] for frame in frames)))
    found = {style: [] for style in styles}
    for frame in frames:
        hits = right(weights_of(frame), margins_of(frame))
        for style in styles:
            own = (frame["style"] == style).to_numpy()
            values = by_cluster(hits[own], frame["prompt"][own], prompts) if own.any() else [np.nan] * len(prompts)
            found[style].append(values)
    return found | {"mean": list(np.mean(list(found.values()), axis=0))}
