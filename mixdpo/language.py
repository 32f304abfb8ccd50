"""Causal language models: loading, log-probabilities of tokens, training on reviews, perplexity."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.runtime import Runtime
from mixdpo.training import fit, training_batches

HEAD_ROWS = 512  # positions whose logits are in memory at one time


def load_language_model(path: Path, runtime: Runtime) -> PreTrainedModel:
    """Any causal language model of transformers, fp32 weights, dropout off, on the runtime's device."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=runtime.attention)
    return model.to(runtime.device).eval()


@dataclass(frozen=True)
class TokenBatch:
    """N right-padded sequences; `mask[n, t]` says that token t + 1 of sequence n is to be predicted."""

    tokens: Tensor  # (N, T) int64
    mask: Tensor  # (N, T - 1) bool

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: str) -> "TokenBatch":
        starts = np.array([len(p) for p in prompts])
        ends = starts + np.array([len(c) for c in completions])
        tokens = np.zeros((len(ends), ends.max()), dtype=np.int64)
        for row, prompt, completion in zip(tokens, prompts, completions, strict=True):
            row[: len(prompt)] = prompt
            row[len(prompt) : len(prompt) + len(completion)] = completion
        time = np.arange(1, tokens.shape[1])
        mask = (time >= np.maximum(starts, 1)[:, None]) & (time < ends[:, None])
        return cls(torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device))


def hidden_states(encoder: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Final hidden states where a token is to be predicted: (M, d), M = masked positions of the batch.

    Padding stands to the right of every real token, so causal attention never sees it and needs no mask.
    """
    return encoder(input_ids=batch.tokens, use_cache=False).last_hidden_state[:, :-1][batch.mask]


def head_log_probs(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """log softmax(head(hidden)) at the targets: hidden (M, d), targets (M,) → (M,), fp32.

    Logits exist for HEAD_ROWS positions at a time and are computed again on the way back, which under bf16 is
    faster than keeping them. Rows are padded to a multiple of 128: the processor's matrix library keeps a plan
    for every shape it has seen.
    """
    rows = len(targets)
    hidden, targets = F.pad(hidden, (0, 0, 0, -rows % 128)), F.pad(targets, (0, -rows % 128))

    def chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        return -F.cross_entropy(head(hidden).float(), targets, reduction="none")

    chunks = zip(hidden.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)
    if torch.is_grad_enabled():
        parts = [checkpoint(chunk, *pair, use_reentrant=False, preserve_rng_state=False) for pair in chunks]
    else:
        parts = [chunk(*pair) for pair in chunks]
    return torch.cat(parts)[:rows]


def token_log_probs(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """log π(y_t | x, y_<t) at the masked positions, 0 elsewhere: (N, T - 1), fp32."""
    hidden, targets = hidden_states(model.base_model, batch), batch.tokens[:, 1:][batch.mask]
    values = head_log_probs(hidden, model.get_output_embeddings(), targets)
    return torch.zeros_like(batch.mask, dtype=torch.float32).masked_scatter(batch.mask, values)


def sequence_log_probs(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """log π(y | x) = Σ_t log π(y_t | x, y_<t) over completion tokens: (N,)."""
    return token_log_probs(model, batch).sum(dim=1)


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

    batches = training_batches([len(r) for r in rows], spec)
    return fit(model, batches, loss, spec=spec, runtime=runtime, resume=resume)


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
