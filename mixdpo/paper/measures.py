"""What claims are about, one function each: it takes a claim's row, the artifacts of its experiment and a seed, and
gives the effect and its unit. `run.kinds.MEASURES` names them and says which keys of the row each needs."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier

from mixdpo.data.statistics import Effect, paired, proportion, unpaired
from mixdpo.paper.recovery import recovery
from mixdpo.paper.scores import (
    head_order,
    learned_differences,
    moved_rows,
    per_prompt,
    policies_in,
    samples,
)
from mixdpo.paper.users import judgements_of, pooled


def reward(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Policy less baseline over the same prompts, in the reward's units; the unit is the SD of the baseline's scores.

    For several rewards it is the mean of the differences in SDs, and the unit is 1.
    """
    rewards = row["reward"] if isinstance(row["reward"], list) else [row["reward"]]
    scale = prompt_scores(artifacts, row["baseline"], "token", rewards, row.get("domain")).std()
    scale = scale.replace(0.0, 1.0)  # scores that are all alike have an SD of 0
    unit = float(scale.iloc[0]) if len(rewards) == 1 else 1.0
    sides = [
        prompt_scores(artifacts, row[who], row.get(how, "token"), rewards, row.get("domain"), scale).mean(axis=1) * unit
        for who, how in (("policy", "decoding"), ("baseline", "baseline_decoding"))
    ]
    return paired(sides[0].loc[sides[1].index], sides[1], seed), unit


def prompt_scores(
    artifacts: dict[str, Path],
    method: str,
    decoding: str,
    rewards: list[str],
    domain: str | None,
    scale: pd.Series | float = 1.0,
) -> pd.DataFrame:
    """Scores per prompt (prompts × rewards), in `scale`; decodings `best` and `rest` are those of `leading`."""

    def scores(how: str) -> pd.DataFrame:
        frame = samples(artifacts, method, how)
        return per_prompt(frame if domain is None else frame[frame["domain"] == domain], rewards) / scale

    if decoding not in ("best", "rest"):
        return scores(decoding)
    experts = len(next(iter(head_order(artifacts, method).values())))
    heads = [scores(f"expert{k}") for k in range(experts)]
    best, rest = leading(np.stack([head.to_numpy() for head in heads], axis=1))
    return pd.DataFrame(best if decoding == "best" else rest, heads[0].index, rewards)


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


def responsibilities(artifacts: dict[str, Path], method: str) -> list[pd.DataFrame]:
    """style, domain and q0 to qK−1 of the validation triplets, heads in order; one frame per seed."""
    frames = []
    for policy, order in head_order(artifacts, method).items():
        frame = pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet")
        q = frame[[f"q{k}" for k in order]].set_axis([f"q{head}" for head in range(len(order))], axis=1)
        frames.append(frame[["style", "domain"]].join(q))
    return frames


def style_recovery(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of triplets whose likeliest expert is that of their style, less its mean when styles are shuffled.

    p is the share of shuffles that recover as much.
    """
    frames, rng = responsibilities(artifacts, row["policy"]), np.random.default_rng(seed)
    share = np.mean([recovery(frame) for frame in frames])
    shuffled = np.array(
        [
            np.mean([recovery(frame.assign(style=rng.permutation(frame["style"]))) for frame in frames])
            for _ in range(row["shuffles"])
        ]
    )
    found = vars(proportion(share, len(frames[0]), float(shuffled.mean())))
    return Effect(**found | {"p": float((1 + np.sum(shuffled >= share)) / (1 + len(shuffled)))}), 1.0


def posterior_spread(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Mean posterior weight of the heaviest head less that of the lightest, over the validation triplets."""
    q = np.mean([frame.filter(regex="^q").to_numpy() for frame in responsibilities(artifacts, row["policy"])], axis=0)
    order = q.mean(axis=0).argsort()
    return paired(q[:, order[-1]], q[:, order[0]], seed), 1.0


def posterior_by_domain(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Mean posterior weight of the first domain's expert: triplets of that domain less all others."""
    policies = policies_in(artifacts, row["policy"])
    frames = [pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet") for policy in policies]
    weight, own = np.mean([frame["q0"] for frame in frames], axis=0), frames[0]["domain"] == row["domains"][0]
    return unpaired(weight[own], weight[~own], seed), 1.0


def prompt_weights(artifacts: dict[str, Path], method: str) -> list[pd.DataFrame]:
    """domain and w0 to wK−1 of the test prompts; one frame per seed."""
    policies = policies_in(artifacts, method, "completions")
    return [pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet") for policy in policies]


def weights_by_domain(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Mean mixture weight of the first domain's expert: test prompts of that domain less all others."""
    frames = prompt_weights(artifacts, row["policy"])
    weight, own = np.mean([frame["w0"] for frame in frames], axis=0), frames[0]["domain"] == row["domains"][0]
    return unpaired(weight[own], weight[~own], seed), 1.0


def gate_accuracy(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of test prompts that the gate sends to the expert of their domain, or its gain over a baseline's gate."""

    def right(method: str) -> np.ndarray:
        frames = prompt_weights(artifacts, method)
        expert = frames[0]["domain"].map({domain: k for k, domain in enumerate(row["domains"])}).to_numpy()
        return np.mean([frame.filter(regex="^w").to_numpy().argmax(axis=1) == expert for frame in frames], axis=0)

    own = right(row["policy"])
    if "baseline" in row:
        return paired(own, right(row["baseline"]), seed), 1.0
    return proportion(own.mean(), len(own)), 1.0


def pretrained_gate_accuracy(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of the `split`'s prompts that the pretrained gate sends to the expert of their domain."""
    table = pd.read_csv(artifacts[f"gates:{row['experiment']}"] / "accuracy.csv").set_index("split")
    return proportion(table.loc[row["split"], "accuracy"], int(table.loc[row["split"], "prompts"])), 1.0


def heads_told_by_words(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of completions whose head naive Bayes tells from the words, less chance; five folds of prompts."""
    experts = len(next(iter(head_order(artifacts, row["policy"]).values())))
    frames = [samples(artifacts, row["policy"], f"expert{k}").assign(head=k) for k in range(experts)]
    frame = pd.concat(frames, ignore_index=True)
    words = CountVectorizer(binary=True).fit_transform(frame["completion"])
    told = cross_val_predict(MultinomialNB(), words, frame["head"], groups=frame["prompt_id"], cv=GroupKFold(5))
    return proportion((told == frame["head"]).mean(), len(frame), 1 / experts), 1.0


def heads_told_by_parameters(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Share of rows of W_k − W_k(start) whose head is told by neighbours of other tokens, less chance; first seed.

    The rows are those of Figure 1, right, before t-SNE.
    """
    policy, reference = policies_in(artifacts, row["policy"])[0], artifacts[f"sft:{row['experiment']}"]
    differences, _ = learned_differences(artifacts[f"policies:{policy}"], reference)
    tokens, experts = moved_rows(differences, row["rows_per_head"]), len(differences)
    head, token = np.repeat(np.arange(experts), len(tokens)), np.tile(tokens, experts)
    rows, neighbours = differences[:, tokens].reshape(len(head), -1), KNeighborsClassifier(row["neighbours"])
    told = cross_val_predict(neighbours, rows, head, groups=token, cv=GroupKFold(5))
    return proportion((told == head).mean(), len(head), 1 / experts), 1.0


def win_rate(row: dict, artifacts: dict[str, Path], seed: int) -> tuple[Effect, float]:
    """Win rate against the row's opponent less 1/2, over pairs: Wilcoxon's p leaves out pairs without a winner."""
    scores = pooled(judgements_of(artifacts, row["policy"], row["decoding"], row["opponent"]))["score"]
    return paired(scores, np.full(len(scores), 0.5), seed), 1.0
