"""Preference triplets as token ids: each text once, and what groups them (pairs, prompts, annotators)."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mixdpo.errors import UserError
from mixdpo.method.fit import packed, training_batches
from mixdpo.method.language import TokenBatch

LABEL = re.compile("style|domain|user|seen|annotator_[0-9]+")
"""Columns of preferences that say something about a triplet."""
PAIRS = {"all": lambda first, second: True, "disjoint": lambda first, second: first % 2 == 0 and second == first + 1}
PAIRS["two"] = lambda first, second: (first, second) == (0, 1)
"""Which pairs of a prompt's completions, numbered from 0, are trained on."""


class Triplets:
    """N preference triplets as token ids. A text that several triplets share is stored and computed once."""

    def __init__(
        self, frame: pd.DataFrame, known: pd.DataFrame, styles: Sequence[str] | None = None, pairs: str = "all"
    ):
        """`frame` has prompt_ids, chosen_ids, rejected_ids and, where known, labels (`LABEL`), prompt_id and `pair`, as
        "0-1"; `known` has, row by row, log π_ref of both completions: chosen, rejected. `styles` are those to keep, all
        unless given; `pairs` is a key of `PAIRS`."""
        kept = chosen_rows(frame, styles, pairs)
        frame, known = frame[kept].reset_index(drop=True), known[kept]
        if frame.empty:
            raise UserError(f"preferences: expected some of {styles or 'any style'}, found none; correct styles")
        number: dict[tuple, int] = {}
        prompts = [tuple(ids) for ids in frame["prompt_ids"]]
        self.chosen, self.rejected = (
            np.array(
                [number.setdefault((p, tuple(c)), len(number)) for p, c in zip(prompts, frame[column], strict=True)]
            )
            for column in ("chosen_ids", "rejected_ids")
        )
        self.texts = list(number)  # (prompt, completion)
        self.users = frame["user"].tolist() if "user" in frame else [""] * len(frame)
        contexts = list(zip(prompts, self.users, strict=True))
        self.contexts = sorted(set(contexts))  # (prompt, user), all that the weights see
        place = {context: i for i, context in enumerate(self.contexts)}
        self.context = np.array([place[c] for c in contexts])  # (N,) row of self.contexts
        self.reference = known[["chosen", "rejected"]].to_numpy(np.float32)  # (N, 2)
        self.labels = frame[[column for column in frame if LABEL.fullmatch(column)]]
        pairs = np.sort(np.stack([self.chosen, self.rejected], axis=1), axis=1)
        _, self.pair = np.unique(pairs, axis=0, return_inverse=True)  # (N,) number of the pair
        self.first = self.chosen == pairs[:, 0]  # (N,) the chosen completion is the pair's first
        asked = frame["prompt_id"] if "prompt_id" in frame else pd.Series(prompts, dtype=object)
        self.prompt = pd.factorize(asked)[0]  # (N,) number of the prompt
        order = np.argsort(self.pair, kind="stable")
        self.groups = np.split(order, np.flatnonzero(np.diff(self.pair[order])) + 1)  # triplets of one pair
        self.lengths = np.array([len(prompt) + len(completion) for prompt, completion in self.texts])

    def units(self, unit: str) -> tuple[np.ndarray, list[str]]:
        """Whose responsibility a triplet shares: (N,) number of its unit, and the units' names.

        `triplet`: its own. `prompt`: all comparisons of its prompt by one annotator, who is its user, or where there
        are no users stands for its style. Else a column of the labels: `user`, or `annotator_m`.
        """
        if unit == "triplet":
            return np.arange(len(self.chosen)), [str(i) for i in range(len(self.chosen))]
        if unit == "prompt":
            who = next((self.labels[column] for column in ("user", "style") if column in self.labels), "")
            names = pd.Series(self.prompt).astype(str) + " " + who
        elif unit in self.labels:
            names = self.labels[unit].astype(str)
        else:
            raise UserError(f"posterior.unit: expected preferences with a column {unit}, found none; name another unit")
        numbers, found = pd.factorize(names)
        return numbers, list(found)

    def rows(self, groups: Sequence[int]) -> np.ndarray:
        """The triplets of these pairs: all styles of a pair are in one minibatch."""
        return np.concatenate([self.groups[i] for i in groups])

    def pieces(self, batch_size: int) -> tuple[list[list[int]], np.ndarray]:
        """The pairs of each prompt, divided where they are more than `batch_size`, and the length of the longest text
        of each piece."""
        prompt = np.array([self.prompt[group[0]] for group in self.groups])
        pieces = []
        for pairs in pd.Series(range(len(prompt))).groupby(prompt, sort=False).agg(list):
            pieces += [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
        length = self.lengths[self.chosen], self.lengths[self.rejected]
        pair_length = np.array([max(side[group[0]] for side in length) for group in self.groups])
        return pieces, np.array([pair_length[piece].max() for piece in pieces])

    def minibatches(self, *, epochs: int, batch_size: int, seed: int) -> list[np.ndarray]:
        """The rows of every minibatch of a training, at most `batch_size` pairs each.

        Pairs of one prompt come together, so that each of its texts goes through the policy once.
        """
        pieces, lengths = self.pieces(batch_size)
        how = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "sizes": [len(piece) for piece in pieces]}
        return [self.rows([pair for i in batch for pair in pieces[i]]) for batch in training_batches(lengths, **how)]

    def batches(self, batch_size: int) -> list[np.ndarray]:
        """The rows of all triplets once, at most `batch_size` pairs at a time, texts of similar length together."""
        pieces, lengths = self.pieces(batch_size)
        cut = packed(np.argsort(lengths, kind="stable"), [len(piece) for piece in pieces], batch_size)
        return [self.rows([pair for i in batch for pair in pieces[i]]) for batch in cut]

    def tokens(self, texts: np.ndarray, device: str, shape: tuple[int, int, int] | None = None) -> TokenBatch:
        return TokenBatch.of([self.texts[i][0] for i in texts], [self.texts[i][1] for i in texts], device, shape)

    def texts_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts of these triplets, each once, and which of them are chosen and rejected: (2, B)."""
        texts, where = np.unique(np.stack([self.chosen[rows], self.rejected[rows]]), return_inverse=True)
        return texts, where.reshape(2, -1)

    def places(self, text: int) -> int:
        """Tokens of a text that are to be predicted."""
        prompt, completion = self.texts[text]
        return len(completion) - (not prompt)

    def shape(self, rows: np.ndarray) -> tuple[int, int, int, int]:
        """Of these triplets: their texts N, the tokens T of the longest, the places M to predict, and B."""
        texts, _ = self.texts_of(rows)
        return len(texts), self.lengths[texts].max(), sum(map(self.places, texts)), len(rows)


def chosen_rows(frame: pd.DataFrame, styles: Sequence[str] | None, pairs: str) -> np.ndarray:
    """Which rows have one of the `styles` and are among the `pairs`: (N,) bool. Raises `UserError`."""
    kept = np.ones(len(frame), bool)
    for key, column, wanted in ("styles", "style", styles is not None), ("pairs", "pair", pairs != "all"):
        if wanted and column not in frame:
            raise UserError(f"{key}: expected preferences with a column {column}, found none; leave {key} out")
    if styles is not None:
        kept &= frame["style"].isin(styles).to_numpy()
    if pairs != "all":
        kept &= np.array([PAIRS[pairs](*map(int, pair.split("-"))) for pair in frame["pair"]], bool)
    return kept
