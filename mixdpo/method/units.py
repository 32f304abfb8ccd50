"""Triplets that share their expert: those of one prompt, user or annotator. Incremental EM over them.

The posterior of a unit needs Σ log σ_k over all its triplets, and a minibatch has few of them. So log σ_k of each
triplet is kept as it was last seen (Neal and Hinton, 1998).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Units(nn.Module):
    """U units of N triplets under K experts, and one more unit and triplet for filler, the last of each."""

    def __init__(self, unit: Sequence[int], names: Sequence[str], experts: int, device: str = "cpu"):
        """`unit` (N,) has the number of each triplet's unit, and `names` a name for each unit."""
        super().__init__()
        self.names = names
        unit = torch.tensor([*unit, len(names)], device=device)
        self.register_buffer("unit", unit, persistent=False)
        self.register_buffer("count", torch.bincount(unit).float(), persistent=False)
        self.register_buffer("utility", torch.zeros(len(unit), experts, device=device))
        self.register_buffer("q", torch.full((len(names) + 1, experts), 1 / experts, device=device))

    def see(self, triplet: Tensor, utility: Tensor) -> tuple[Tensor, Tensor]:
        """Keep `utility` (B, K), log σ_k of these triplets (B,). Returns its sum over each one's unit, (B, K), and how
        many triplets that unit has, (B,).

        A triplet that was not seen yet adds nothing, as if every expert were the reference.
        """
        filler = triplet == len(self.unit) - 1
        self.utility[triplet] = utility.to(self.utility.dtype).masked_fill(filler[:, None], 0.0)
        unit = self.unit[triplet]
        return self.sums()[unit].to(utility.dtype), self.count[unit].to(utility.dtype)

    def keep(self, triplet: Tensor, q: Tensor) -> None:
        """Keep the posteriors `q` (B, K) of the units of these triplets."""
        self.q[self.unit[triplet]] = q.to(self.q.dtype)

    def sums(self) -> Tensor:
        """Σ log σ_k over the triplets of each unit: (U + 1, K)."""
        return torch.zeros_like(self.q).index_add(0, self.unit, self.utility)

    def mean_q(self) -> Tensor:
        """Mean over units of the kept posteriors, 1/K for a unit that was not seen yet: (K,). The M-step of global
        weights."""
        return self.q[:-1].mean(dim=0)
