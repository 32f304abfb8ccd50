"""Causal language models: loading, log-probabilities of tokens, training on reviews, perplexity."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import NewGELUActivation

from mixdpo.method.fit import fit, training_batches
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Optimiser

HEAD_ROWS = 256  # positions whose softmax is in memory at once


def load_language_model(path: Path, runtime: Runtime) -> PreTrainedModel:
    """Any causal language model of transformers, fp32 weights, dropout off, on the runtime's device."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=runtime.attention)
    fuse_gelu(model)
    return model.to(runtime.device).eval()


def fuse_gelu(model: nn.Module) -> None:
    """GPT-2's activation as torch's single kernel; transformers takes eight element-wise operations."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


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

    Rows are padded to a multiple of 128, because the processor's matrix library stores a plan for every new shape.
    """
    rows, weight, device = len(targets), head.weight, hidden.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if head.bias is not None:  # one more feature, which is always 1
        hidden, weight = F.pad(hidden, (0, 1), value=1.0), torch.cat([weight, head.bias[:, None]], dim=1)
    hidden, targets = F.pad(hidden.to(precision), (0, 0, 0, -rows % 128)), F.pad(targets, (0, -rows % 128))
    return LinearLogProbs.apply(hidden, weight, targets, torch.is_grad_enabled())[:rows]


class LinearLogProbs(torch.autograd.Function):
    """log softmax(hidden weightᵀ) at the targets, HEAD_ROWS rows at a time: products in the precision of hidden.

    Logits are stored for the backward pass in that precision; computing them again would add a fourth product to three.
    With e = softmax − onehot(targets) and g the gradient of the result, the gradients are −(g e) weight and
    −eᵀ(g hidden); g scales the narrower factor. The weight's gradient is summed over chunks in its own precision.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, keep: bool) -> Tensor:
        narrow, values, kept = weight.to(hidden.dtype), [], []
        for rows, wanted in zip(hidden.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True):
            logits = rows @ narrow.T
            values.append(-F.cross_entropy(logits.float(), wanted, reduction="none"))
            kept += [logits] * keep
        values = torch.cat(values)
        ctx.save_for_backward(hidden, weight, targets, values, *kept)
        return values

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, targets, values, *kept = ctx.saved_tensors
        narrow, columns = weight.to(hidden.dtype), (hidden, targets[:, None], values[:, None], -grad[:, None])
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for i, (logits, rows, wanted, value, g) in enumerate(
            zip(kept, *(column.split(HEAD_ROWS) for column in columns), strict=True)
        ):
            error = logits.softmax(dim=-1)  # fp32 inside, rounded once; p − 1 of the target is exact from log p
            error.scatter_(1, wanted, value.expm1().to(error.dtype))
            if grad_hidden is not None:
                grad_hidden[i * HEAD_ROWS : (i + 1) * HEAD_ROWS] = (error @ narrow) * g
            if grad_weight is not None:
                grad_weight += error.T @ (rows * g).to(rows.dtype)
        return grad_hidden, grad_weight, None, None


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
    """Token ids of each review with its end-of-text, cut into rows of at most `max_tokens`; all rows or the first.

    Texts begin as their tokenizer begins them, here and in prompts: with a special token for Llama, without for GPT-2.
    """
    ids = tokenizer(list(texts))["input_ids"]
    ends = [[*row, tokenizer.eos_token_id] for row in ids]
    starts = (lambda row: [0]) if first_only else (lambda row: range(0, len(row), max_tokens))
    rows = [row[i : i + max_tokens] for row in ends for i in starts(row)]
    return [row for row in rows if len(row) > 1]


def _batch(rows: Sequence[Sequence[int]], runtime: Runtime) -> TokenBatch:
    return TokenBatch.of([[]] * len(rows), rows, runtime.device)


def train_language_model(
    model: PreTrainedModel,
    rows: list[list[int]],
    *,
    epochs: int,
    optimiser: Optimiser,
    seed: int,
    runtime: Runtime,
    resume: Path,
) -> pd.DataFrame:
    """Minimise the mean negative log-likelihood per token of `rows`; returns the curve of `fit`."""

    def loss(batch: np.ndarray):
        tokens = _batch([rows[i] for i in batch], runtime)
        return -token_log_probs(model, tokens).sum() / tokens.mask.sum(), {}

    batches = training_batches([len(r) for r in rows], epochs=epochs, batch_size=optimiser.batch_size, seed=seed)
    return fit(model, batches, loss, optimiser=optimiser, seed=seed, runtime=runtime, resume=resume)


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
