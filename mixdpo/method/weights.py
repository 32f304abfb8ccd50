"""Mixture weights: the same for every prompt (Mix-DPO), or by a gate that sees the prompt and the user (MoE-DPO)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class GlobalWeights(nn.Module):
    """Mix-DPO: the same mixture weights for every prompt, learned in closed form, without a gradient."""

    kind = "global"

    def __init__(self, experts: int, weights: Sequence[float] | None = None):
        super().__init__()
        self.log_w = nn.Parameter(torch.tensor(weights or [1 / experts] * experts).log().clamp_min(-30.0))

    def features(self, prompts: Sequence[Sequence[int]], users: Sequence[str] | None = None) -> Tensor:
        """Features of each prompt and user: none, (N, 0)."""
        return torch.zeros(len(prompts), 0, device=self.log_w.device)

    def forward(self, features: Tensor) -> Tensor:
        return self.log_w.detach().expand(len(features), -1)


class GateWeights(nn.Module):
    """MoE-DPO: w(x, u) = softmax(Wx + V_u + b), x the mean of the frozen reference encoder's states over the prompt.

    V_u is a row of weights for each user that the gate knows. Without users this is the w(x) of section 4.2.
    """

    kind = "gate"

    def __init__(self, encoder: PreTrainedModel, experts: int, users: Sequence[str] = ()):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.users = {user: i for i, user in enumerate(users)}
        self.linear = nn.Linear(encoder.config.hidden_size + len(users), experts)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @torch.no_grad()
    def features(self, prompts: Sequence[Sequence[int]], users: Sequence[str] | None = None) -> Tensor:
        """Mean final hidden state of each prompt, and √d at the place of its user: (N, d + U).

        √d is the length of a normalised state, so that one learning rate suits both. A user that the gate does not know
        has no place. Prompts of one length share a batch, so nothing is padded.
        """
        width = self.encoder.config.hidden_size
        features = torch.zeros(len(prompts), self.linear.in_features, device=self.linear.weight.device)
        for rows in rows_by(len(p) for p in prompts):
            for part in torch.tensor(rows).split(64):
                tokens = torch.tensor(np.stack([prompts[i] for i in part.tolist()]), device=features.device)
                features[part, :width] = self.encoder(input_ids=tokens).last_hidden_state.float().mean(dim=1)
        for row, user in enumerate(users or []):
            if user in self.users:
                features[row, width + self.users[user]] = width**0.5
        return features

    def of_anyone(self, features: Tensor) -> Tensor:
        """log of the mean over all known users of w(x, u), whoever asks: (N, K)."""
        width = self.encoder.config.hidden_size
        users = torch.eye(len(self.users), device=features.device) * width**0.5
        states = features[:, None, :width].expand(-1, len(self.users), -1)
        log_w = self(torch.cat([states, users.expand(len(features), -1, -1)], dim=2))  # (N, U, K)
        return log_w.logsumexp(dim=1) - math.log(len(self.users))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(features).log_softmax(dim=-1)


def rows_by(keys) -> list[list[int]]:
    """Row numbers grouped by equal key, groups in the order of the keys."""
    groups = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return [groups[key] for key in sorted(groups)]
