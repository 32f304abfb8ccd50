"""Mixtures made by hand: what a policy's responsibilities.parquet holds if its experts are specialists, or copies."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

STYLES = ("sentiment", "informativeness", "grammar")
DRIFTED = (0.29, 0.52, 0.19)


def whole(triplets: pd.DataFrame) -> pd.DataFrame:
    """Rows of a few columns as responsibilities.parquet has them, once for validation and once for test.

    Without columns of their own, every triplet is the only one of its pair, its first text chosen, and its margins are
    those that equal weights would make its q of.
    """
    n, q = len(triplets), triplets.filter(regex="^q[0-9]+$")
    margins = np.log(q / (1 - q)).clip(-50, 50).add_prefix("m").rename(columns=lambda c: f"margin{c[2:]}")
    given = {"prompt": np.arange(n), "pair": np.arange(n), "chosen_first": True} | dict(margins.items())
    rows = triplets.assign(**{name: value for name, value in given.items() if name not in triplets})
    return pd.concat([rows.assign(split=split) for split in ("validation", "test")], ignore_index=True)


def mixture(
    kind: str, weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3), seed: int = 0, prompts: int = 60, completions: int = 4
) -> pd.DataFrame:
    """responsibilities.parquet of K = 3 `specialists`, expert k for style k, or `copies`, which follow the mean of all.

    Every completion has a score of each style, independent of the others, and a style prefers the larger. A
    specialist's margin is ten times the difference of its score.
    """
    rng, rows = np.random.default_rng(seed), []
    for split in ("validation", "test"):
        for prompt in range(prompts):
            scores = rng.normal(size=(completions, 3))
            for pair, (a, b) in enumerate(combinations(range(completions), 2)):
                ahead = scores[a] - scores[b]
                margins = 10 * (ahead if kind == "specialists" else np.repeat(ahead.mean(), 3))
                for k, style in enumerate(STYLES):
                    side = 1 if ahead[k] > 0 else -1
                    rows.append((split, style, "movie", prompt, 10 * prompt + pair, side > 0, *(side * margins)))
    columns = ["split", "style", "domain", "prompt", "pair", "chosen_first", *(f"margin{k}" for k in range(3))]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.join(posterior(frame, weights))


def posterior(frame: pd.DataFrame, weights: Sequence[float] | np.ndarray) -> pd.DataFrame:
    """q and w of rows with margins: q ∝ w σ(margin)."""
    margins = frame.filter(regex="^margin[0-9]+$").to_numpy()
    w = np.broadcast_to(np.asarray(weights), margins.shape)
    joint = w / (1 + np.exp(-margins))
    q = joint / joint.sum(axis=1, keepdims=True)
    named = {f"q{k}": q[:, k] for k in range(q.shape[1])} | {f"w{k}": w[:, k] for k in range(w.shape[1])}
    return pd.DataFrame(named, index=frame.index)
