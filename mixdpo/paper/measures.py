"""What claims are about, one function each: it takes a claim's row, the artifacts of its experiment and a seed, and
gives the effect and its unit. `run.kinds.MEASURES` names them and says which keys of the row each needs.

A claim about what was trained has training seeds as its unit: its values are (seeds × prompts), see
`statistics.hierarchical`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.special import log_expit, softmax
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier

from mixdpo.data.statistics import Effect, hierarchical, proportion, share
from mixdpo.paper.recovery import margins_of, recovered_by_seed
from mixdpo.paper.scores import (
    by_seed,
    difference,
    head_order,
    learned_differences,
    moved_rows,
    policies_in,
    samples,
    triplets_of,
)
from mixdpo.paper.users import judgements_of, pair_scores_by_seed


def reward(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Policy less baseline over the same prompts, in the reward's units; the unit is the SD of the baseline's scores.

    The SD is over prompts, pooled within seeds. For several rewards the effect is the mean of the differences in SDs,
    and the unit is 1.
    """
    rewards = row["reward"] if isinstance(row["reward"], list) else [row["reward"]]
    spread = prompt_scores(artifacts, row["baseline"], "token", rewards, row.get("domain"))
    scale = np.sqrt(spread.groupby(level="seed").var().mean()).replace(0.0, 1.0)  # scores that are all alike: SD 0
    unit = float(scale.iloc[0]) if len(rewards) == 1 else 1.0
    own, base = (
        prompt_scores(artifacts, row[who], row.get(how, "token"), rewards, row.get("domain"), scale)
        .mean(axis=1)
        .mul(unit)
        .unstack()
        for who, how in (("policy", "decoding"), ("baseline", "baseline_decoding"))
    )
    return hierarchical(difference(own, base), seed=seed), unit


def prompt_scores(
    artifacts: dict[str, Path],
    method: str,
    decoding: str,
    rewards: list[str],
    domain: str | None,
    scale: pd.Series | float = 1.0,
) -> pd.DataFrame:
    """Scores (seeds and prompts × rewards), in `scale`; decodings `best` and `rest` are those of `leading` in each
    seed."""

    def scores(how: str) -> pd.DataFrame:
        frame = samples(artifacts, method, how)
        own = frame if domain is None else frame[frame["domain"] == domain]
        return own.groupby(["seed", "prompt_id"])[rewards].mean() / scale

    if decoding not in ("best", "rest"):
        return scores(decoding)
    experts = len(next(iter(head_order(artifacts, method).values())))
    heads = pd.concat([scores(f"expert{k}") for k in range(experts)], axis=1)
    led = []
    for _, own in heads.groupby(level="seed"):
        best, rest = leading(own.to_numpy().reshape(len(own), experts, len(rewards)))
        led.append(pd.DataFrame(best if decoding == "best" else rest, own.index, rewards))
    return pd.concat(led)


def leading(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (prompts, K, R) → those of the expert that leads in each reward, and the mean of the others, (prompts, R).

    NaN where a reward has no expert, as `leaders` says.
    """
    heads, experts = leaders(scores), scores.shape[1]
    best = np.take_along_axis(scores, heads.clip(0)[:, None], axis=1)[:, 0]
    rest = (scores.sum(axis=1) - best) / (experts - 1)
    return tuple(np.where(heads < 0, np.nan, part) for part in (best, rest))


def leaders(scores: np.ndarray) -> np.ndarray:
    """Scores (prompts, K, R) → the expert that leads in each reward: (prompts, R), −1 where there are too few experts.

    Each reward has its expert, by the Hungarian method on the means of the other half of the prompts (even against
    odd): an expert chosen on the prompts that it is judged by would lead by chance.
    """
    half, heads = np.arange(len(scores)) % 2, np.full((len(scores), scores.shape[2]), -1)
    for side in (0, 1):
        means = scores[half != side].mean(axis=0)
        for head, reward in zip(*linear_sum_assignment(means - means.mean(axis=0), maximize=True)):
            heads[half == side, reward] = head
    return heads


def style_recovery(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of test triplets whose expert of the largest margin is that of their style, less its chance."""
    found, chance = recovered_by_seed(artifacts, row["policy"])
    return hierarchical(found - chance, seed=seed), 1.0


def triplet_means(
    artifacts: dict[str, Path], method: str, value: Callable[[pd.DataFrame], np.ndarray], domains: bool = False
) -> pd.DataFrame:
    """Means over the test triplets of a prompt, (seeds × prompts), of what `value` makes of a policy's triplets.

    With `domains`, columns are domain and prompt.
    """
    rows = {}
    for policy in policies_in(artifacts, method):
        triplets = triplets_of(artifacts[f"policies:{policy}"])
        by = [triplets[name] for name in ["domain"] * domains + ["prompt"]]
        rows[policy] = pd.Series(value(triplets)).groupby(by).mean()
    return pd.DataFrame(rows).T


def posterior_spread(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Mean posterior weight of a seed's heaviest head less that of its lightest, over the test triplets."""

    def spread(triplets: pd.DataFrame) -> np.ndarray:
        q = triplets.filter(regex="^q[0-9]+$").to_numpy()
        order = q.mean(axis=0).argsort()
        return q[:, order[-1]] - q[:, order[0]]

    return hierarchical(triplet_means(artifacts, row["policy"], spread), seed=seed), 1.0


def posterior_by_domain(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Mean posterior weight of the first domain's expert at equal mixture weights: test prompts of that domain less
    all others.

    With the gate's own weights copies of one expert would separate as well as the gate does.
    """
    values = triplet_means(
        artifacts, row["policy"], lambda triplets: softmax(log_expit(margins_of(triplets)), axis=1)[:, 0], domains=True
    )
    own = values.columns.get_level_values("domain") == row["domains"][0]
    return hierarchical(values.loc[:, own], values.loc[:, ~own], seed=seed), 1.0


def prompt_weights(artifacts: dict[str, Path], method: str) -> list[pd.DataFrame]:
    """domain and w0 to wK−1 of the test prompts; one frame per seed."""
    policies = policies_in(artifacts, method, "completions")
    return [pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet") for policy in policies]


def weights_by_domain(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Mean mixture weight of the first domain's expert: test prompts of that domain less all others."""
    frames = prompt_weights(artifacts, row["policy"])
    weight, own = np.stack([frame["w0"] for frame in frames]), (frames[0]["domain"] == row["domains"][0]).to_numpy()
    return hierarchical(weight[:, own], weight[:, ~own], seed=seed), 1.0


def sent_to_their_domain(artifacts: dict[str, Path], method: str, domains: list[str]) -> np.ndarray:
    """Whether the heaviest expert of a test prompt is that of its domain, (seeds × prompts); expert k is domain k's."""
    frames, expert = prompt_weights(artifacts, method), {domain: k for k, domain in enumerate(domains)}
    right = [f.filter(regex="^w").to_numpy().argmax(axis=1) == f["domain"].map(expert).to_numpy() for f in frames]
    return np.stack(right).astype(float)


def gate_accuracy(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of test prompts that the gate sends to the expert of their domain, or its gain over a baseline's gate."""
    own = sent_to_their_domain(artifacts, row["policy"], row["domains"])
    if "baseline" in row:
        return hierarchical(own - sent_to_their_domain(artifacts, row["baseline"], row["domains"]), seed=seed), 1.0
    return share(own), 1.0


def pretrained_gate_accuracy(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of the `split`'s prompts that the pretrained gate sends to the expert of their domain.

    On test prompts it is read from the first seed of a policy that keeps this gate; no training seed changes it.
    """
    if row["split"] == "test":
        right = sent_to_their_domain(artifacts, row["policy"], row["domains"])[0]
        return proportion(right.mean(), len(right)), 1.0
    table = pd.read_csv(artifacts[f"gates:{row['experiment']}"] / "accuracy.csv").set_index("split")
    return proportion(table.loc[row["split"], "accuracy"], int(table.loc[row["split"], "prompts"])), 1.0


def heads_told_by_words(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of completions whose head naive Bayes tells from the words, less chance; each seed, five folds of
    prompts."""
    experts = len(next(iter(head_order(artifacts, row["policy"]).values())))
    frames = [samples(artifacts, row["policy"], f"expert{k}").assign(head=k) for k in range(experts)]
    told = []
    for _, own in pd.concat(frames).groupby("seed"):
        words = CountVectorizer(binary=True).fit_transform(own["completion"])
        found = cross_val_predict(MultinomialNB(), words, own["head"], groups=own["prompt_id"], cv=GroupKFold(5))
        told.append(own.assign(told=found == own["head"]))
    return hierarchical(by_seed(pd.concat(told), "told").astype(float) - 1 / experts, seed=seed), 1.0


def heads_told_by_parameters(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of rows of W_k − W_k(start) whose head is told by neighbours of other tokens, less chance.

    The rows are those of Figure 1, right, before t-SNE; each seed has its own, so only seeds are resampled.
    """
    shares, reference = [], artifacts[f"sft:{row['experiment']}"]
    for policy in policies_in(artifacts, row["policy"]):
        differences, _ = learned_differences(artifacts[f"policies:{policy}"], reference)
        tokens, experts = moved_rows(differences, row["rows_per_head"]), len(differences)
        head, token = np.repeat(np.arange(experts), len(tokens)), np.tile(tokens, experts)
        rows, neighbours = differences[:, tokens].reshape(len(head), -1), KNeighborsClassifier(row["neighbours"])
        told = cross_val_predict(neighbours, rows, head, groups=token, cv=GroupKFold(5))
        shares.append((told == head).mean())
    if len(shares) == 1:
        return replace(proportion(shares[0], len(head), 1 / experts), p=np.nan, seeds=1), 1.0
    return replace(hierarchical(np.array(shares)[:, None] - 1 / experts), n=len(head)), 1.0


def win_rate(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Win rate against the row's opponent less 1/2, over pairs of completions."""
    frames = judgements_of(artifacts, row["policy"], row["decoding"], row["opponent"])
    return hierarchical(pair_scores_by_seed(frames) - 0.5, seed=seed), 1.0
