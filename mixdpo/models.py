"""Language models as policies: loading, and log-probabilities of completions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from mixdpo.runtime import Runtime


def load_policy(path: Path, runtime: Runtime) -> PreTrainedModel:
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


def token_log_probs(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """log π(y_t | x, y_<t) at the masked positions, 0 elsewhere: (N, T - 1), fp32.

    The output layer runs at masked positions only. Padding stands to the right of every real token, so
    causal attention never sees it and no attention mask is needed.
    """
    hidden = model.base_model(input_ids=batch.tokens, use_cache=False).last_hidden_state[:, :-1]
    logits = model.get_output_embeddings()(hidden[batch.mask])
    losses = F.cross_entropy(logits.float(), batch.tokens[:, 1:][batch.mask], reduction="none")
    return torch.zeros_like(batch.mask, dtype=torch.float32).masked_scatter(batch.mask, -losses)


def sequence_log_probs(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """log π(y | x) = Σ_t log π(y_t | x, y_<t) over completion tokens: (N,)."""
    return token_log_probs(model, batch).sum(dim=1)
