"""Do experts know the styles of annotation? Read from their margins on unseen triplets, not from the mixture weights.

q ∝ w σ(margin) names one expert for every triplet as soon as one weight leads, however good the experts are. A margin
β (log-ratio⁺ − log-ratio⁻) has no weight in it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from mixdpo.data.statistics import by_cluster
from mixdpo.paper.scores import policies_in, triplets_of


def margins_of(triplets: pd.DataFrame) -> np.ndarray:
    """(triplets, K), in the order of the experts."""
    names = sorted(triplets.filter(regex="^margin[0-9]+$"), key=lambda name: int(name.removeprefix("margin")))
    return triplets[names].to_numpy()


@dataclass(frozen=True)
class Recovered:
    """Of one policy's test triplets: is the expert of the largest margin that of the style (`right`), and with what
    probability if the styles of a pair are dealt anew among its triplets (`chance`)? `prompt` is the triplet's."""

    right: np.ndarray
    chance: np.ndarray
    prompt: np.ndarray

    def by_prompt(self, values: np.ndarray) -> pd.Series:
        """A number for each prompt, whose mean is that of all triplets, though prompts differ in how many they have:
        `statistics.by_cluster`."""
        return pd.Series(by_cluster(values, self.prompt), np.unique(self.prompt))


def recovered(policy: Path) -> Recovered:
    """Style recovered by margins of a policy's test triplets; K experts, named by styles on validation triplets.

    Experts and styles are matched by the Hungarian method where no result is read, so chance needs no search: a deal of
    a pair's styles leaves its margins, its number of triplets and their directions as they are, and a triplet's
    chance is the share of its pair's styles that its expert has the name of. Triplets of a pair that all prefer the
    same text have one expert, so no experts, however good, are right about more than one of them.
    """
    names = named_by(triplets_of(policy, "validation"))
    test = triplets_of(policy)
    said = names[margins_of(test).argmax(axis=1)]
    style = test["style"].to_numpy()
    counts = test.groupby(["pair", "style"]).size()
    pairs = test.groupby("pair")["style"].transform("size").to_numpy()
    own = counts.reindex(pd.MultiIndex.from_arrays([test["pair"], said]), fill_value=0).to_numpy()
    return Recovered(said == style, own / pairs, test["prompt"].to_numpy())


def named_by(triplets: pd.DataFrame) -> np.ndarray:
    """The style of each expert, (K,), "" if there are more experts than styles: most triplets whose largest margin is
    its."""
    margins, styles = margins_of(triplets), np.unique(triplets["style"])
    largest = np.eye(margins.shape[1], dtype=int)[margins.argmax(axis=1)]
    counts = np.stack([largest[triplets["style"] == style].sum(axis=0) for style in styles], axis=1)
    names = np.full(margins.shape[1], "", dtype=object)
    experts, own = linear_sum_assignment(-counts)
    names[experts] = styles[own]
    return names


def recovered_by_seed(artifacts: dict[str, Path], method: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Share recovered and its chance, each (seeds × test prompts), for `hierarchical` and `mean_and_se`."""
    found = {policy: recovered(artifacts[f"policies:{policy}"]) for policy in policies_in(artifacts, method)}
    share = {policy: seed.by_prompt(seed.right) for policy, seed in found.items()}
    chance = {policy: seed.by_prompt(seed.chance) for policy, seed in found.items()}
    return pd.DataFrame(share).T, pd.DataFrame(chance).T


def correlation_of_margins(policy: Path) -> float:
    """Mean over pairs of experts of the correlation of their margins, first text against second, over the test pairs.

    1 for copies; NaN for one expert.
    """
    test = triplets_of(policy)
    margins = margins_of(test) * np.where(test["chosen_first"], 1, -1)[:, None]
    margins = margins[~test["pair"].duplicated()]
    if margins.shape[1] < 2:
        return float("nan")
    between = np.corrcoef(margins.T)
    return float(between[np.triu_indices(len(between), 1)].mean())


def at_their_expert(shares: pd.DataFrame) -> np.ndarray:
    """Whether the largest q of a row is that of its style's expert, (rows,), with the best matching of experts to
    styles."""
    q = shares.filter(regex="^q[0-9]+$").to_numpy()
    styles, style = np.unique(shares["style"], return_inverse=True)
    counts = np.zeros((len(styles), q.shape[1]), dtype=int)
    np.add.at(counts, (style, q.argmax(axis=1)), 1)
    expert_of = np.full(len(styles), -1)
    rows, experts = linear_sum_assignment(-counts)
    expert_of[rows] = experts
    return q.argmax(axis=1) == expert_of[style]
