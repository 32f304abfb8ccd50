"""The mixture preference model as pure functions of tensors, with the paper's names and equation numbers.

B = preference triplets, K = experts; the last axis of a (B, K, 2) tensor is (chosen, rejected).
Everything stays in log space. Symbols: w mixture weights, r_k expert rewards, q responsibilities,
log_ratio = log π_k − log π_ref(k).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def log_bradley_terry(r: Tensor) -> Tensor:
    """log σ_k(x, y⁺, y⁻) of equation (4) from expert rewards r (B, K, 2); returns (B, K)."""
    return F.logsigmoid(r[..., 0] - r[..., 1])


def log_mbt_likelihood(log_w: Tensor, r: Tensor) -> Tensor:
    """log P(y⁺ ≻ y⁻ | x) of the Mixture-of-Bradley-Terry model (5); log_w (B, K), r (B, K, 2); returns (B,)."""
    return torch.logsumexp(log_w + log_bradley_terry(r), dim=-1)


def responsibilities(
    log_w: Tensor,
    utility: Tensor,
    *,
    entropy: float = 0.0,
    confidence: float = 0.0,
    kl_uniform: float = 0.0,
    kl_w: float = 1.0,
    annealing: Tensor | float = 1.0,
) -> Tensor:
    """q_k ∝ w_k^(λ_KLw/α) exp(ℓ_k/α) of Lemma 6, with α = λ_ent − λ_conf + λ_KLu + λ_KLw; returns (B, K).

    log_w and the utility ℓ are (B, K). With ℓ = log σ the defaults give q_k ∝ w_k σ_k, the posterior that makes
    Theorem 1 tight (Algorithm 2). Where several triplets share their expert, ℓ is the sum of their log σ. `annealing`
    multiplies α: above 1, experts are told apart less than weights and comparisons say. The paper prints the first two
    signs of α the other way round; only these collect the coefficients of −Σ q log q. Raises `ValueError` when α ≤ 0:
    the objective has no maximum inside the simplex.

    By hand, K = 2: w = (1/4, 3/4), reward margins (log 3, 0) give σ = (3/4, 1/2), products (3/16, 6/16) and
    q = (1/3, 2/3).
    """
    alpha = entropy - confidence + kl_uniform + kl_w
    if alpha <= 0:
        raise ValueError(f"expected entropy - confidence + kl_uniform + kl_w > 0, found {alpha}")
    return torch.softmax((kl_w * log_w + utility) / (alpha * annealing), dim=-1)


def log_reward_posterior(log_w: Tensor, r: Tensor) -> Tensor:
    """log q⁽ʳ⁾_k(x, y) of equation (7); log_w (B, K), r (B, K, 2); returns (B, K, 2), normalised over K."""
    return torch.log_softmax(log_w.unsqueeze(-1) + r, dim=-2)


def log_partition(reference: Tensor, r: Tensor, log_q_r: Tensor, log_w: Tensor, beta: float) -> Tensor:
    """log Z_k(x) of Algorithm 3, summed over the two responses that answer x; returns (B, K).

    reference = log π_ref(k), r and log_q_r are (B, K, 2). Algorithm 3 sums over all responses of the minibatch,
    most of which answer other prompts.
    """
    return torch.logsumexp(reference + (r + log_w.unsqueeze(-1) - log_q_r) / beta, dim=-1)


def updated_rewards(
    log_ratio: Tensor, log_q_r: Tensor, log_w: Tensor, beta: float, log_z: Tensor | float = 0.0
) -> Tensor:
    """r_k = β (log_ratio_k + log Z_k) + log(q⁽ʳ⁾_k / w_k), equation (10) as an assignment; returns (B, K, 2)."""
    shift = beta * log_z.unsqueeze(-1) if isinstance(log_z, Tensor) else beta * log_z
    return beta * log_ratio + shift + log_q_r - log_w.unsqueeze(-1)


def reward_update(
    kind: str, log_ratio: Tensor, reference: Tensor, log_w: Tensor, beta: float, previous: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Expert rewards r and the log q⁽ʳ⁾ that the expert losses see, both (B, K, 2).

    (10) is a condition on r, not an assignment. `implicit` drops q⁽ʳ⁾: r_k = β log_ratio_k. `one_step` takes q⁽ʳ⁾
    from the implicit rewards and applies (10) once. `partition` is Algorithm 3: q⁽ʳ⁾ and Z_k from the `previous`
    rewards of the same triplets (implicit ones at first), then (10).
    """
    implicit = beta * log_ratio
    if kind == "implicit":
        return implicit, torch.zeros_like(implicit)
    old = previous if kind == "partition" and previous is not None else implicit
    log_q_r = log_reward_posterior(log_w, old)
    log_z = log_partition(reference, old, log_q_r, log_w, beta) if kind == "partition" else 0.0
    return updated_rewards(log_ratio, log_q_r, log_w, beta, log_z), log_q_r


def expert_loss(log_ratio: Tensor, q: Tensor, log_q_r: Tensor, beta: float) -> Tensor:
    """Expert losses of equation (11), one per triplet and expert: returns (B, K).

    log_ratio (B, K, 2). q (B, K) and log_q_r (B, K, 2) come from the E-step and are constants here, as in section
    D.2: gradients flow through log_ratio alone.

    By hand, K = 1 (q = 1, q⁽ʳ⁾ = 1), β = 0.1: at log_ratio (0, 0) the loss is −log σ(0) = log 2 = 0.6931;
    at (5, −5) it is −log σ(1) = 0.3133. That is the loss of DPO.
    """
    modulated = beta * log_ratio + log_q_r.detach()
    return -q.detach() * log_bradley_terry(modulated)


def relaxed_loss(
    log_w: Tensor, utility: Tensor, *, logits: str, samples: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Monte Carlo relaxation of section E.2: L_MC + KL̂, (B,), and the mean sample z̄, (B, K), in place of q.

    utility ℓ = log σ and log_w are (B, K); gradients flow through both, and through the `samples` draws z from
    GumbelSoftmax(log α, `temperature`). `logits` says which of the section's two α: `posterior`, α = w σ, or `prior`,
    α = w. Noise comes from torch's global generator. −L_MC − KL̂ is Theorem 1's bound at the hard z drawn as τ → 0.
    """
    log_alpha = (log_w + utility if logits == "posterior" else log_w).expand(samples, *utility.shape)
    gumbel = -torch.empty_like(log_alpha).exponential_().log()
    log_z = torch.log_softmax((log_alpha + gumbel) / temperature, dim=-1)
    z = log_z.exp()
    # 0 log 0 = 0, with gradient 0: a hard sample has log z = −∞ at all other experts.
    divergence = (z * (log_z.clamp_min(-1e4) - log_w)).sum(dim=-1)
    return (divergence - (z * utility).sum(dim=-1)).mean(dim=0), z.detach().mean(dim=0)


def gate_loss(log_w: Tensor, q: Tensor) -> Tensor:
    """Cross-entropy −Σ_k q_k log w_k(x; φ), which minimises (12) over the gate; both (B, K); returns (B,).

    An expert with q_k = 0 adds nothing, even where w_k = 0.
    """
    q = q.detach()
    return -(q * torch.where(q > 0, log_w, 0.0)).sum(dim=-1)


def mixture_weights(q: Tensor) -> Tensor:
    """log of the Mix-DPO weights w_k = mean of q_k over the minibatch (section D.4); q (B, K); returns (K,).

    Weights stay above e⁻³⁰, so that an expert without any responsibility has a finite logarithm.
    """
    return q.mean(dim=0).log().clamp_min(-30.0).log_softmax(dim=0)


def kl_to_uniform(log_w: Tensor) -> Tensor:
    """KL(w ‖ uniform) of the gate, which λ_KLw_global weighs (section E.1); log_w (B, K); returns (B,)."""
    return (log_w.exp() * log_w).sum(dim=-1) + math.log(log_w.shape[-1])


def elbo(log_w: Tensor, r: Tensor, q: Tensor, count: Tensor | float = 1.0) -> Tensor:
    """Right-hand side of Theorem 1, Σ_k q_k log(w_k σ_k / q_k), with 0 log 0 = 0; returns (B,).

    Where `count` triplets share their expert, so that KL(q ‖ w) is paid once for all, a triplet bears its part.
    """
    divergence = torch.xlogy(q, q) - torch.where(q > 0, q * log_w, 0.0)
    return (q * log_bradley_terry(r)).sum(dim=-1) - divergence.sum(dim=-1) / count
