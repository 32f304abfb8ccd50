"""Causal language modelling of reviews: token rows, training, perplexity."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.models import TokenBatch, token_log_probs
from mixdpo.runtime import Runtime
from mixdpo.training import fit


def token_rows(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int, first_only: bool
) -> list[list[int]]:
    """Token ids of each review with its end-of-text, cut into rows of at most `max_tokens`; all rows or the first."""
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    ends = [[*row, tokenizer.eos_token_id] for row in ids]
    starts = (lambda row: [0]) if first_only else (lambda row: range(0, len(row), max_tokens))
    rows = [row[i : i + max_tokens] for row in ends for i in starts(row)]
    return [row for row in rows if len(row) > 1]


def _batch(rows: Sequence[Sequence[int]], runtime: Runtime) -> TokenBatch:
    return TokenBatch.of([[]] * len(rows), rows, runtime.device)


def train_language_model(
    model: PreTrainedModel, rows: list[list[int]], spec: dict, runtime: Runtime, resume: Path
) -> pd.DataFrame:
    """Minimise the mean negative log-likelihood per token of `rows`; returns the curve of `fit`."""

    def loss(batch: np.ndarray):
        tokens = _batch([rows[i] for i in batch], runtime)
        return -token_log_probs(model, tokens).sum() / tokens.mask.sum(), {}

    return fit(model, [len(r) for r in rows], loss, spec=spec, runtime=runtime, resume=resume)


@torch.no_grad()
def perplexity(model: PreTrainedModel, rows: list[list[int]], runtime: Runtime, batch_size: int = 64) -> float:
    """exp of the mean negative log-likelihood per predicted token."""
    rows, total, count = sorted(rows, key=len), 0.0, 0
    for i in range(0, len(rows), batch_size):
        tokens = _batch(rows[i : i + batch_size], runtime)
        with runtime.autocast():
            total -= token_log_probs(model, tokens).double().sum().item()
        count += int(tokens.mask.sum())
    return float(np.exp(total / count))
