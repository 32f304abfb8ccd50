"""Batched ancestral sampling of token sequences, from one expert or from a mixture.

N = rows (texts that are continued), S = experts that decode, T = tokens, d = hidden size, V = vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel, StaticCache
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer
from transformers.pytorch_utils import Conv1D

from mixdpo.method.capture import Captured
from mixdpo.method.runtime import Runtime

BLOCK = 64
"""A block of so many columns is drawn first, by the sums of blocks, and then a column within it."""
ASK = {"cpu": 1, "cuda": 16}
"""Tokens drawn between checks for whether all texts have ended. On CUDA each check waits for the device."""
STAYING = 0.5
"""Finished texts leave the batch once at most this share is unfinished."""


def truncate(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set logits (N, V) outside the `top_k` largest (0 = all) or the `top_p` nucleus (1 = all) to −∞."""
    if top_k:
        kept = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kept, -torch.inf)
    if top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return logits


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """One column per row, with probability proportional to `weights` (N, V) ≥ 0, from `uniform` (N,) in [0, 1) → (N,).

    The cumulative distribution is inverted in two steps, first that of blocks, then that within the block drawn: sums
    of blocks use the processor's vector units, a cumulative sum over V cannot.
    """
    blocks = F.pad(weights, (0, -weights.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    ends = blocks.sum(dim=-1).cumsum(dim=-1)
    target = uniform[:, None] * ends[:, -1:]
    block = _first_above(ends, target)
    target = target - torch.where(block > 0, ends.gather(1, (block - 1).clamp_min(0)), 0.0)
    within = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].cumsum(dim=-1)
    return (block * BLOCK + _first_above(within, target))[:, 0]


def _first_above(ends: Tensor, target: Tensor) -> Tensor:
    """First column of the cumulative sums `ends` (N, B) above `target` (N, 1), which rounding may lift to the last."""
    below = torch.nextafter(ends[:, -1:], torch.zeros_like(target))
    return torch.searchsorted(ends, torch.minimum(target, below), right=True)


def mixture_log_probs(token_log_probs: Tensor, log_w: Tensor, mixture: str) -> Tensor:
    """log π(y | x) of the mixture (1); token_log_probs (N, K, T), 0 where nothing is predicted, log_w (N, K) → (N,).

    `sequence`: an expert is drawn once, π = Σ_k w_k π_k(y | x). `token`: Σ_t log Σ_k w_k π_k(y_t | x, y_<t).
    """
    if mixture == "sequence":
        return torch.logsumexp(log_w + token_log_probs.sum(dim=-1), dim=-1)
    return torch.logsumexp(log_w.unsqueeze(-1) + token_log_probs, dim=1).sum(dim=-1)


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer as the filled part of one allocation, so that no token copies those before it."""

    def __init__(self, length: int):
        super().__init__()
        self.length, self.filled = length, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.keys, self.values = (
                states.new_empty(*states.shape[:2], self.length, states.shape[-1])
                for states in (key_states, value_states)
            )
            self.is_initialized = True
        start, self.filled = self.filled, self.filled + key_states.shape[-2]
        self.keys[:, :, start : self.filled] = key_states
        self.values[:, :, start : self.filled] = value_states
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]

    def get_seq_length(self) -> int:
        return self.filled


class FixedLayer(StaticLayer):
    """Keys and values of one layer at fixed addresses, in one precision: under autocast, keys may come in another."""

    def __init__(self, length: int, dtype: torch.dtype):
        super().__init__(length)
        self.precision = dtype

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return super().update(key_states.to(self.precision), value_states.to(self.precision), *args, **kwargs)


def key_value_cache(config: PretrainedConfig, length: int, fixed: torch.dtype | None) -> Cache:
    """A cache for `length` tokens: of fixed shapes in the precision `fixed`, or one that grows if that is None.

    In a growing cache, layers of other kinds than full attention (sliding windows, say) are those of transformers.
    """
    if fixed:
        return Cache(layers=[FixedLayer(length, fixed) for _ in StaticCache(config, length).layers])
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def has_full_attention(config: PretrainedConfig) -> bool:
    """Every layer attends to all tokens. Shapes of other kinds vary with the number of tokens."""
    return all(type(layer) is StaticLayer for layer in StaticCache(config, 8).layers)


@contextmanager
def decoding_mode(models: Sequence[nn.Module], runtime: Runtime) -> Iterator[None]:
    """How `models` run while texts are drawn.

    Linear layers multiply in bf16 where the runtime does, with weights that are rounded once and not at every step. On
    a processor the rest stays in fp32, attention too, which for one token at a time is faster there than in bf16. On
    CUDA the rest runs under autocast, and the deterministic algorithms are off: a step has no sum whose order varies,
    and the deterministic way to write a column sorts.
    """
    on_cuda = runtime.device == "cuda"
    with ExitStack() as stack:
        if on_cuda:
            before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(torch.use_deterministic_algorithms, before[0], warn_only=before[1])
            torch.use_deterministic_algorithms(False)
        if runtime.precision == "bf16":
            if on_cuda:
                stack.enter_context(runtime.autocast())
            for module in {module: None for model in models for module in model.modules()}:
                if isinstance(module, nn.Linear | Conv1D) and "forward" not in vars(module):
                    module.forward = _narrow_forward(module, runtime)
                    stack.callback(delattr, module, "forward")
        yield


def _narrow_forward(module: nn.Linear | Conv1D, runtime: Runtime) -> Callable[[Tensor], Tensor]:
    """The product of a layer in bf16. On CUDA odd numbers of columns are padded, since such products are far slower."""
    weight, bias = module.weight.bfloat16(), None if module.bias is None else module.bias.bfloat16()
    weight = weight.T if isinstance(module, Conv1D) else weight
    columns, on_cuda = len(weight), runtime.device == "cuda"
    if on_cuda and columns % 8:
        weight = F.pad(weight, (0, 0, 0, -columns % 64))
        bias = None if bias is None else F.pad(bias, (0, -columns % 64))

    def forward(states: Tensor) -> Tensor:
        out = F.linear(states.bfloat16(), weight, bias)[..., :columns]
        return out if on_cuda else out.float()

    return forward


class Decoder:
    """Experts that decode N rows, each model with its key-value cache."""

    def __init__(self, policy: nn.Module, experts: Sequence[int], log_w: Tensor, runtime: Runtime, length: int):
        """`log_w` (N, S) are the log weights of the S `experts`, one row per prompt. Texts have up to `length` tokens.

        On CUDA all shapes are fixed where the models allow it, and caches have the precision `fixed`.
        """
        self.policy, self.experts, self.w, self.caches = policy, experts, log_w.exp(), {}
        self.length = length + -length % 8  # CUDA's attention kernels want masks of such widths
        self.names = [None if k < len(policy.heads) else k for k in experts]  # of the caches; all heads share one
        self.outputs = [policy.output_layer(k) for k in experts]
        fixed = runtime.device == "cuda" and all(has_full_attention(self.trunk(k).config) for k in experts)
        self.fixed = {"bf16": torch.bfloat16, "fp32": torch.float32}[runtime.precision] if fixed else None

    def trunk(self, k: int) -> PreTrainedModel:
        """What expert k runs below its output layer: the encoder of all heads, or its own model."""
        policy = self.policy
        return policy.encoder if k < len(policy.heads) else policy.language_model(k).base_model

    def modules(self) -> list[nn.Module]:
        """All that a step runs."""
        return [*map(self.trunk, self.experts), *self.outputs]

    def read(self, tokens: Tensor) -> list[Tensor]:
        """Tokens that the caches lack (N, T) → the state at the last of them, for every expert (N, d)."""
        states = {}
        for k, name in zip(self.experts, self.names, strict=True):
            if name not in states:
                trunk = self.trunk(k)
                if name not in self.caches:
                    self.caches[name] = key_value_cache(trunk.config, self.length, self.fixed)
                out = trunk(input_ids=tokens, past_key_values=self.caches[name], use_cache=True)
                states[name] = out.last_hidden_state[:, -1]
        return [states[name] for name in self.names]

    def logits(self, i: int, states: Tensor) -> Tensor:
        """Logits of the i-th of the experts, fp32: (n, d) → (n, V)."""
        return self.outputs[i](states).float()

    def mixed(self, states: list[Tensor]) -> Tensor:
        """log Σ_k w_k π_k(· | x, y_<t), (N, V)."""
        if len(states) == 1:
            return self.logits(0, states[0])
        mixed = 0.0
        for i, state in enumerate(states):
            mixed = mixed + self.w[:, i, None] * self.logits(i, state).softmax(dim=-1)
        return mixed.log()

    def draw(self, states: list[Tensor], uniform: Tensor) -> Tensor:
        """One token per row (N,) from the mixture, by two uniform numbers a row (N, 2).

        The first draws an expert from the weights and the second a token from that expert, which is the same
        distribution and needs one softmax a row, and on a processor one output layer a row.
        """
        if len(states) == 1:
            return draw(self.logits(0, states[0]).softmax(dim=-1), uniform[:, 1])
        chosen = draw(self.w, uniform[:, 0])
        if self.fixed:  # shapes must not depend on what is drawn
            logits = self.logits(0, states[0])
            for i in range(1, len(states)):
                logits = torch.where(chosen[:, None] == i, self.logits(i, states[i]), logits)
            return draw(logits.softmax(dim=-1), uniform[:, 1])
        tokens = torch.empty_like(chosen)
        for i in chosen.unique().tolist():
            rows, state = (chosen == i).nonzero()[:, 0], states[i]
            tokens[rows] = draw(self.logits(i, state[rows]).softmax(dim=-1), uniform[rows, 1])
        return tokens

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.w = self.w[rows]
        for cache in self.caches.values():
            for layer in cache.layers:
                layer.batch_select_indices(rows)


class Texts:
    """N texts side by side: prompts, and after each what is drawn, one column a step.

    All rows stand in the same column. A row with a longer prompt is fed the rest of it before anything is drawn.
    """

    def __init__(
        self, decoder: Decoder, prompts: Sequence[Sequence[int]], ends: Sequence[int], uniform: Tensor, drawn: Callable
    ):
        """`uniform` (N, max_new_tokens, 2) is what `drawn(states, uniform)` makes the tokens from."""
        self.decoder, self.uniform, self.drawn, device = decoder, uniform, drawn, uniform.device
        self.lengths, self.most, self.last = [len(prompt) for prompt in prompts], uniform.shape[1], set(ends)
        self.first, self.width = min(self.lengths), max(self.lengths) + self.most
        tokens = np.zeros((len(prompts), self.width), dtype=np.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.tokens, self.starts = torch.from_numpy(tokens).to(device), torch.tensor(self.lengths, device=device)
        self.ends = torch.tensor(ends, dtype=torch.int64, device=device)
        self.column = torch.tensor([self.first], device=device)  # the next to be written
        self.done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self.rows, self.finished = torch.arange(len(prompts), device=device), torch.zeros_like(self.tokens)

    def step(self) -> None:
        """Read one column and write the next."""
        states = self.decoder.read(self.tokens.index_select(1, self.column - 1))
        new = self.column - self.starts  # (N,): tokens drawn so far, negative in a prompt
        place = new.clamp(0, self.most - 1)[:, None, None].expand(-1, -1, 2)
        drawn = self.drawn(states, self.uniform.gather(1, place)[:, 0])
        token = torch.where(new < 0, self.tokens.index_select(1, self.column)[:, 0], drawn)
        self.tokens.index_copy_(1, self.column, token[:, None])
        self.done |= (new >= 0) & ((token[:, None] == self.ends).any(dim=1) | (new >= self.most - 1))
        self.column += 1

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.finished[self.rows] = self.tokens
        for name in "tokens", "starts", "uniform", "done", "rows":
            setattr(self, name, getattr(self, name)[rows])
        self.decoder.keep(rows)

    def write(self) -> list[list[int]]:
        """All completions, each up to and with its end."""
        if self.first > 1:
            self.decoder.read(self.tokens[:, : self.first - 1])
        fixed, ask = self.decoder.fixed is not None, ASK[self.tokens.device.type]
        step = Captured(self.step) if fixed else self.step
        for i in range(1, self.width - self.first + 1):
            step()
            if i % ask == 0:
                going = (~self.done).nonzero()[:, 0]
                if not len(going):
                    break
                if not fixed and len(going) <= STAYING * len(self.done):
                    self.keep(going)
        self.finished[self.rows] = self.tokens
        return [self._completion(*row) for row in zip(self.finished.tolist(), self.lengths, strict=True)]

    def _completion(self, tokens: list[int], start: int) -> list[int]:
        drawn = tokens[start : start + self.most]
        return drawn[: next((i for i, token in enumerate(drawn, 1) if token in self.last), len(drawn))]


def sample(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    ends: Sequence[int],
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[list[int]]:
    """Completions of `prompts` (N rows), as token ids. Each ends with one of `ends`, or after max_new_tokens.

    Row n is made from `uniform[n]`, of (N, max_new_tokens, 2) in [0, 1), so it does not depend on the other rows but
    for rounding.
    """
    drawn = decoder.draw
    if temperature != 1 or top_k or top_p < 1:

        def drawn(states: list[Tensor], uniform: Tensor) -> Tensor:
            mixed = decoder.mixed(states)
            mixed = mixed - mixed.amax(dim=-1, keepdim=True)  # finite at any temperature
            logits = truncate(mixed / temperature, top_k, top_p)
            return draw(logits.softmax(dim=-1), uniform[:, 1])

    return Texts(decoder, prompts, ends, uniform, drawn).write()
