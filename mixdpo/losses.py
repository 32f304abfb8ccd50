"""The mixture preference model as pure functions of tensors, with the paper's names and equation numbers.

B = preference triplets, K = experts; the last axis of a (B, K, 2) tensor is (chosen, rejected).
Everything stays in log space. Symbols: w mixture weights, r_k expert rewards, q responsibilities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def log_bradley_terry(r: Tensor) -> Tensor:
    """log σ_k(x, y⁺, y⁻) of equation (4) from expert rewards r (B, K, 2); returns (B, K)."""
    return F.logsigmoid(r[..., 0] - r[..., 1])


def log_mbt_likelihood(log_w: Tensor, r: Tensor) -> Tensor:
    """log P(y⁺ ≻ y⁻ | x) of the Mixture-of-Bradley-Terry model (5); log_w (B, K), r (B, K, 2); returns (B,)."""
    return torch.logsumexp(log_w + log_bradley_terry(r), dim=-1)


def responsibilities(log_w: Tensor, r: Tensor) -> Tensor:
    """q_k ∝ w_k σ(r_k(y⁺) − r_k(y⁻)), the posterior that makes Theorem 1 tight (Algorithm 2); returns (B, K)."""
    return torch.softmax(log_w + log_bradley_terry(r), dim=-1)


def log_reward_posterior(log_w: Tensor, r: Tensor) -> Tensor:
    """log q⁽ʳ⁾_k(x, y) of equation (7); log_w (B, K), r (B, K, 2); returns (B, K, 2), normalised over K."""
    return torch.log_softmax(log_w.unsqueeze(-1) + r, dim=-2)


def expert_loss(log_ratio: Tensor, q: Tensor, log_q_r: Tensor, beta: float) -> Tensor:
    """Expert losses of equation (11), one per triplet and expert: returns (B, K).

    log_ratio = log π_k − log π_ref(k), (B, K, 2). q (B, K) and log_q_r (B, K, 2) come from the E-step and are
    constants here, as in section D.2: gradients flow through log_ratio alone.

    By hand, K = 1 (q = 1, q⁽ʳ⁾ = 1), β = 0.1: at log_ratio (0, 0) the loss is −log σ(0) = log 2 = 0.6931;
    at (5, −5) it is −log σ(1) = 0.3133. That is the loss of DPO.
    """
    modulated = beta * log_ratio + log_q_r.detach()
    return -q.detach() * log_bradley_terry(modulated)
