"""Causal language models: loading, log-probabilities of tokens, training on reviews, perplexity."""

import math
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
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mixdpo.method.fit import buckets, fit, training_batches
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Optimiser

HEAD_ROWS = {"cpu": 64, "cuda": 8192}
"""Places whose softmax is in memory at once in fp32: what fits the cache of a processor, or keeps a GPU busy."""


def causal_mask(*, q_length: int, kv_length: int, attention_mask: Tensor | None = None, **how) -> Tensor | None:
    """The mask of fused attention; none where every token of whole sequences attends to all before it, which fused
    attention knows as `is_causal`.

    While a CUDA graph is captured transformers makes a mask even there, and fused attention is slow with one. Layers
    with a window, and models that add a rule of their own, keep their masks.
    """
    plain = how.get("local_size") is None and not how.get("use_vmap")
    if attention_mask is None and q_length == kv_length and plain:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **how)


ALL_MASK_ATTENTION_FUNCTIONS.register("causal", causal_mask)
ALL_ATTENTION_FUNCTIONS.register("causal", sdpa_attention_forward)


def load_language_model(path: Path, runtime: Runtime) -> PreTrainedModel:
    """Any causal language model of transformers, fp32 weights, dropout off, on the runtime's device."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=runtime.attention)
    fuse_gelu(model)
    return model.to(runtime.device).eval()


def fuse_gelu(model: nn.Module) -> None:
    """Give `model` our form of GPT-2's activation; transformers uses eight element-wise operations."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, Gelu())


class Gelu(nn.Module):
    """GPT-2's activation: torch's kernel on a GPU, `SigmoidGelu` on a processor."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or torch.compiler.is_compiling():
            return F.gelu(x, approximate="tanh")
        return SigmoidGelu.apply(x.contiguous(), torch.is_grad_enabled())


class SigmoidGelu(torch.autograd.Function):
    """x σ(a x + b x³), a = 2 √(2/π), b = 0.044715 a, which is GELU with tanh, since 1 + tanh u = 2 σ(2u).

    A processor takes a tenth of the time for torch's sigmoid that it takes for its tanh. The slope,
    σ + x σ (1 − σ) (a + 3 b x²), is stored in place of x, so that the backward pass is one product.
    """

    A = 2 * math.sqrt(2 / math.pi)
    B = 0.044715 * A
    VALUES = 2**16  # at once: what fits the cache

    @staticmethod
    def forward(ctx, x: Tensor, keep: bool) -> Tensor:
        a, b, values = SigmoidGelu.A, SigmoidGelu.B, SigmoidGelu.VALUES
        y, slope = torch.empty_like(x), torch.empty_like(x if keep else x[:0])
        slopes = slope.view(-1).split(values) if keep else [None] * (x.numel() // values + 1)
        for part, of_y, of_slope in zip(x.view(-1).split(values), y.view(-1).split(values), slopes):
            wide = part.float()
            square = wide * wide
            sigmoid = (square * b).add_(a).mul_(wide).sigmoid_()
            out = wide * sigmoid
            of_y.copy_(out)
            if keep:
                of_slope.copy_(torch.addcmul(sigmoid, square.mul_(3 * b).add_(a).mul_(out), 1 - sigmoid))
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None


@dataclass(frozen=True)
class TokenBatch:
    """N right-padded sequences, and the M places of the tokens to predict.

    The state at place n · T + t, of token t of sequence n, predicts token t + 1. Filler rounds M up: it has place 0 and
    row N.
    """

    tokens: Tensor  # (N, T) int64
    places: Tensor  # (M,) int64, ascending but for the filler
    targets: Tensor  # (M,) int64, the tokens to predict
    rows: Tensor  # (M,) int64, n of each place

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        device: str,
        shape: tuple[int, int, int] | None = None,
    ) -> "TokenBatch":
        """The tokens of completions are to be predicted. `shape` (N, T, M) leaves room for more sequences, tokens and
        places; by default M is rounded up to 128, because the processor's matrix library stores a plan for every new
        shape."""
        starts = np.array([len(p) for p in prompts])
        ends = starts + np.array([len(c) for c in completions])
        first = np.maximum(starts, 1)  # nothing predicts the first token
        counts = ends - first
        n, t, m = shape or (len(ends), ends.max(), counts.sum() + -counts.sum() % 128)
        tokens = np.zeros((n, t), dtype=np.int64)
        for row, prompt, completion in zip(tokens, prompts, completions):
            row[: len(prompt)] = prompt
            row[len(prompt) : len(prompt) + len(completion)] = completion
        rows = np.full(m, n)
        rows[: counts.sum()] = np.repeat(np.arange(len(ends)), counts)
        places, targets, real = np.zeros(m, dtype=np.int64), np.zeros(m, dtype=np.int64), slice(counts.sum())
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        places[real] = rows[real] * t + np.repeat(first - 1, counts) + within
        targets[real] = tokens.reshape(-1)[places[real] + 1]
        return cls(*(torch.from_numpy(array).to(device) for array in (tokens, places, targets, rows)))

    @property
    def mask(self) -> Tensor:
        """mask[n, t] says that token t + 1 of sequence n is to be predicted: (N, T − 1) bool."""
        return self.grid(self.rows < len(self.tokens)).bool()

    def grid(self, values: Tensor) -> Tensor:
        """Values of the places (M, …) where they belong, 0 elsewhere: (N, T − 1, …)."""
        (n, t), real = self.tokens.shape, self.rows < len(self.tokens)
        flat = values.new_zeros(n * t, *values.shape[1:]).index_put((self.places[real],), values[real])
        return flat.unflatten(0, (n, t))[:, :-1]

    def sums(self, values: Tensor) -> Tensor:
        """Sums of the values of the places (M, …) by sequence: (N, …)."""
        n = len(self.tokens)
        return values.new_zeros(n + 1, *values.shape[1:]).index_add(0, self.rows, values)[:n]


def hidden_states(encoder: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Final hidden states at the places of the batch: (M, d).

    Padding stands to the right of every real token, so causal attention never sees it and needs no mask.
    """
    states = encoder(input_ids=batch.tokens, use_cache=False).last_hidden_state
    return states.flatten(0, 1).index_select(0, batch.places)


def head_log_probs(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """log softmax(head(hidden)) at the targets: hidden (M, d), targets (M,) → (M,), fp32."""
    weight, device = head.weight, hidden.device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if head.bias is not None:  # one more feature, which is always 1
        hidden, weight = F.pad(hidden, (0, 1), value=1.0), torch.cat([weight, head.bias[:, None]], dim=1)
    return LinearLogProbs.apply(hidden.to(precision), weight, targets, torch.is_grad_enabled())


class LinearLogProbs(torch.autograd.Function):
    """log softmax(hidden weightᵀ) at the targets: products in the precision of hidden, the rest in fp32.

    With e = softmax − onehot(targets) and g the gradient of the result, the gradients are −(g e) weight and
    −eᵀ(g hidden); g scales the narrower factor. e takes the place of the logits, in their precision: computing it in
    the backward pass would add a fourth product to three.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, keep: bool) -> Tensor:
        logits = hidden @ padded(weight, hidden.dtype).T
        logits[:, len(weight) :] = -torch.inf
        values, rows = [], HEAD_ROWS[hidden.device.type]
        for narrow, wanted in zip(logits.split(rows), targets[:, None].split(rows), strict=True):
            wide = narrow.float()
            p = wide.softmax(dim=-1)
            log_z = wide.amax(dim=-1, keepdim=True) - p.amax(dim=-1, keepdim=True).log()
            value = wide.gather(1, wanted) - log_z
            if keep:
                narrow.copy_(p).scatter_(1, wanted, value.expm1().to(narrow.dtype))  # p − 1 is exact from log p
            values.append(value)
        ctx.save_for_backward(hidden, weight, *[logits] * keep)
        return torch.cat(values).squeeze(1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight, error = ctx.saved_tensors
        grad_hidden = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_hidden = (error @ padded(weight, hidden.dtype)) * -grad[:, None]
        if ctx.needs_input_grad[1]:
            scaled = (hidden * -grad[:, None]).to(hidden.dtype)
            grad_weight = (error.T @ scaled)[: len(weight)].to(weight.dtype)
        return grad_hidden, grad_weight, None, None


def padded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """An output matrix (V, d) in `dtype`; if V is no multiple of 8, with rows of zeros up to a multiple of 64.

    A GPU multiplies by other numbers of rows, such as GPT-2's 50,257, at a quarter of its speed.
    """
    if len(weight) % 8 == 0:
        return weight.to(dtype)
    wide = weight.new_zeros(len(weight) + -len(weight) % 64, weight.shape[1], dtype=dtype)
    wide[: len(weight)] = weight
    return wide


def sequence_log_probs(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """log π(y | x) = Σ_t log π(y_t | x, y_<t) over completion tokens: (N,)."""
    return batch.sums(place_log_probs(model, batch))


def place_log_probs(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """log π(y_t | x, y_<t) at the places of the batch: (M,), fp32."""
    return head_log_probs(hidden_states(model.base_model, batch), model.get_output_embeddings(), batch.targets)


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
    batches = training_batches([len(r) for r in rows], epochs=epochs, batch_size=optimiser.batch_size, seed=seed)
    counts = [(len(b), max(len(rows[i]) for i in b), sum(len(rows[i]) - 1 for i in b)) for b in batches]
    shapes = buckets(counts) if runtime.device == "cuda" else [None] * len(batches)

    def parts(step: int) -> list[dict]:
        texts = [rows[i] for i in batches[step]]
        return [vars(TokenBatch.of([[]] * len(texts), texts, "cpu", shapes[step]))]

    def loss(part: dict) -> tuple[Tensor, dict[str, Tensor]]:
        batch = TokenBatch(**part)
        real = batch.rows < len(batch.tokens)
        return -(place_log_probs(model, batch) * real).sum() / real.sum(), {}

    how = {"optimiser": optimiser, "seed": seed, "runtime": runtime, "resume": resume}
    return fit(model, len(batches), parts, loss, **how)


@torch.no_grad()
def perplexity(model: PreTrainedModel, rows: list[list[int]], runtime: Runtime, batch_size: int = 64) -> float:
    """exp of the mean negative log-likelihood per predicted token."""
    rows, total, count = sorted(rows, key=len), 0.0, 0
    for i in range(0, len(rows), batch_size):
        texts = rows[i : i + batch_size]
        with runtime.autocast():
            values = sequence_log_probs(model, TokenBatch.of([[]] * len(texts), texts, runtime.device))
        total -= values.double().sum().item()
        count += sum(len(text) - 1 for text in texts)
    return float(np.exp(total / count))
