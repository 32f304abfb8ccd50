"""Batched ancestral sampling of token sequences, from one expert or from a mixture."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from mixdpo.method.runtime import Runtime


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


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One column per row from softmax(logits), (N, V) → (N,), by inverting the cumulative distribution.

    One uniform number a row instead of V exponentials makes this about 18 times faster than torch.multinomial.
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    uniform = torch.rand(len(logits), 1, generator=generator, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, uniform, right=True).squeeze(1).clamp_(max=logits.shape[-1] - 1)


def sample(
    next_logits: Callable[[Tensor], Tensor],
    prompts: Tensor,
    ends: Sequence[int],
    generator: torch.Generator,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[list[int]]:
    """Completions of `prompts` (N, T), as token ids. Each ends with one of `ends`, or is cut at `max_new_tokens`.

    `next_logits` is called with the tokens that it has not seen yet: first (N, T), then (N, 1). It returns (N, V).
    """
    tokens, done, columns = prompts, torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device), []
    last = torch.tensor(ends, dtype=prompts.dtype, device=prompts.device)
    while len(columns) < max_new_tokens and not done.all():
        token = draw(truncate(next_logits(tokens) / temperature, top_k, top_p), generator)
        columns.append(token)
        done |= torch.isin(token, last)
        tokens = token[:, None]
    rows = torch.stack(columns, dim=1).tolist()
    return [row[: next((i for i, token in enumerate(row, 1) if token in ends), len(row))] for row in rows]


def mixture_log_probs(token_log_probs: Tensor, log_w: Tensor, mixture: str) -> Tensor:
    """log π(y | x) of the mixture (1); token_log_probs (N, K, T), 0 where nothing is predicted, log_w (N, K) → (N,).

    `sequence`: an expert is drawn once, π = Σ_k w_k π_k(y | x). `token`: Σ_t log Σ_k w_k π_k(y_t | x, y_<t).
    """
    if mixture == "sequence":
        return torch.logsumexp(log_w + token_log_probs.sum(dim=-1), dim=-1)
    return torch.logsumexp(log_w.unsqueeze(-1) + token_log_probs, dim=1).sum(dim=-1)


class Decoder:
    """Next-token logits of the token-level mixture of some experts, with one key-value cache a model."""

    def __init__(self, policy: nn.Module, experts: Sequence[int], log_w: Tensor, runtime: Runtime):
        """`log_w` (N, S) are the log weights of the S `experts`, one row a prompt."""
        self.policy, self.log_w, self.experts, self.runtime = policy, log_w, experts, runtime
        self.caches: dict[int | None, DynamicCache] = {}

    def last_hidden(self, encoder: PreTrainedModel, tokens: Tensor, expert: int | None = None) -> Tensor:
        """State at the last token, (N, d). `expert` names the cache; None is that of all heads."""
        cache = self.caches.setdefault(expert, DynamicCache(config=encoder.config))
        return encoder(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens not yet seen (N, T) → log Σ_k w_k π_k(· | x, y_<t), (N, V), fp32."""
        policy, logits, shared = self.policy, [], None
        with self.runtime.autocast():
            for k in self.experts:
                if k < len(policy.heads):
                    shared = self.last_hidden(policy.encoder, tokens) if shared is None else shared
                    logits.append(policy.heads[k](shared).float())
                else:
                    model = policy.language_model(k)
                    hidden = self.last_hidden(model.base_model, tokens, k)
                    logits.append(model.get_output_embeddings()(hidden).float())
        if len(logits) == 1:
            return logits[0]
        mixed = torch.zeros_like(logits[0])
        for w, part in zip(self.log_w.exp().T, logits, strict=True):
            mixed += w[:, None] * part.softmax(dim=-1)
        return mixed.log()
