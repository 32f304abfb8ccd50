"""Mixture weights: the same for every prompt (Mix-DPO), or by a gate that sees the prompt and the user (MoE-DPO)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mixdpo.errors import UserError


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

        √d is the length of a normalised state, so that one learning rate suits both. Prompts of one length share a
        batch, so nothing is padded. Raises `UserError` for a user that the gate was not trained with.
        """
        width = self.encoder.config.hidden_size
        features = torch.zeros(len(prompts), self.linear.in_features, device=self.linear.weight.device)
        for rows in rows_by(len(p) for p in prompts):
            for part in torch.tensor(rows).split(64):
                tokens = torch.tensor(np.stack([prompts[i] for i in part.tolist()]), device=features.device)
                features[part, :width] = self.encoder(input_ids=tokens).last_hidden_state.float().mean(dim=1)
        if self.users:
            for row, user in enumerate(users if users is not None else [None] * len(prompts)):
                if user not in self.users:
                    known = ", ".join(list(self.users)[:4]) + (", …" if len(self.users) > 4 else "")
                    raise UserError(
                        f"user: expected one of the {len(self.users)} users in training ({known}), found {user}; name "
                        "one of them, or train the gate with preferences of this user"
                    )
                features[row, width + self.users[user]] = width**0.5
        return features

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(features).log_softmax(dim=-1)


def rows_by(keys) -> list[list[int]]:
    """Row numbers grouped by equal key, groups in the order of the keys."""
    groups = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return [groups[key] for key in sorted(groups)]
