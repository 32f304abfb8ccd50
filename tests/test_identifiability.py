"""What the preference likelihood can and cannot tell about experts: evidence for docs/replication-notes.md.

Rewards are free: nothing ties one prompt to another. On a single pair, expert k has a reward margin m_k, and three
annotation styles label the pair, two one way and one the other. Margins follow the gradient of the expert losses with
exact E-steps.
"""

import numpy as np
import pytest
import torch

from mixdpo.method.losses import (
    expert_loss,
    log_bradley_terry,
    log_mbt_likelihood,
    responsibilities,
    reward_update,
)

LABELS = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)  # two styles prefer the first text, one the second


def converged_margins(update: str, kl_w: float, spread: float, experts: int = 3, steps: int = 1500) -> torch.Tensor:
    """Margins (K) after gradient EM with w = 1/K, from margins between −0.1 and 0.1 times `spread`."""
    margin = (torch.linspace(-0.1, 0.1, experts, dtype=torch.float64) * spread).requires_grad_()
    log_w = torch.full((3, experts), -np.log(experts), dtype=torch.float64)  # (labels, K)
    for _ in range(steps):
        signed = LABELS[:, None] * margin  # chosen minus rejected, (labels, K)
        log_ratio = torch.stack([signed / 2, -signed / 2], dim=-1)
        r, log_q_r = reward_update(update, log_ratio.detach(), torch.zeros_like(log_ratio), log_w, beta=1.0)
        penalties = {"entropy": 0.0, "confidence": 0.0, "kl_uniform": 0.0, "kl_w": kl_w}
        q = responsibilities(log_w, log_bradley_terry(r), **penalties)
        (gradient,) = torch.autograd.grad(expert_loss(log_ratio, q, log_q_r, 1.0).sum(), margin)
        margin.data -= 0.5 * gradient
    return margin.detach()


@pytest.mark.parametrize("update", ["implicit", "one_step"])
def test_disagreeing_styles_do_not_drive_experts_apart(update):
    """Under the posterior of Theorem 1 experts 0.1 apart stay about that far apart, in no style's direction.

    Under `implicit`, whose loss is the likelihood itself, every end with Σ_k w_k σ(m_k) = 2/3 is as good as any
    other, K = 1 included: the likelihood has a flat set, and training ends where it first meets it.
    """
    margins = converged_margins(update, 1.0, 1.0)
    assert np.ptp(margins.numpy()) < 0.2 and margins.min() > 0.6
    if update == "implicit":
        assert torch.sigmoid(margins).mean().item() == pytest.approx(2 / 3, abs=1e-6)
        apart = converged_margins(update, 1.0, 20.0)
        assert np.ptp(apart.numpy()) > 3 and torch.sigmoid(apart).mean().item() == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize("update", ["implicit", "one_step"])
@pytest.mark.parametrize("experts", [2, 3])
def test_a_sharper_posterior_drives_experts_apart(update, experts):
    """Where α of Lemma 6 is below 1, a small difference between experts on an undecided pair grows, for every K.

    To first order it grows as 1/α − 1. Three experts end as opposites of each other on every pair, not as the styles.
    """
    margins = converged_margins(update, 0.9, 0.1, experts)
    assert np.ptp(margins.numpy()) > 1
    if experts == 3:
        assert margins.max() > 1 > -1 > margins.min()


@pytest.mark.parametrize("experts", [2, 3])
def test_a_posterior_that_is_not_sharper_does_not(experts):
    """At α = 1 the small difference stays, and above 1 it shrinks."""
    same, flatter = (np.ptp(converged_margins("implicit", kl_w, 0.1, experts).numpy()) for kl_w in (1.0, 1.1))
    assert flatter < 0.001 < same < 0.02


def test_one_expert_explains_the_labels_as_well_as_three_true_ones():
    """On one pair, three experts that are the styles, each certain, are as likely as one policy."""
    certain = 1e3 * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    signed = LABELS[:, None] * certain
    log_w = torch.full((3, 3), -np.log(3), dtype=torch.float64)
    three = log_mbt_likelihood(log_w, torch.stack([signed / 2, -signed / 2], dim=-1))
    single = LABELS[:, None] * np.log(2)
    one = log_mbt_likelihood(torch.zeros(3, 1, dtype=torch.float64), torch.stack([single / 2, -single / 2], dim=-1))
    torch.testing.assert_close(three, one)
    assert three.tolist() == pytest.approx(np.log([2 / 3, 2 / 3, 1 / 3]).tolist())


def test_three_responses_tell_the_styles_from_one_policy():
    """Three styles rank three responses in a circle. No single policy can follow them; a mixture of three can.

    Of any two responses the first is preferred by two styles of three, around the circle: one policy's best guess is
    1/2 for every pair, −log P = log 2. The mixture of the styles gives 2/3 and 1/3, −log P = 0.637, and gradient descent
    on −log P of (5) from small random rewards finds a mixture as likely.
    """
    first, second = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    share = torch.tensor([2 / 3] * 3, dtype=torch.float64)  # of the styles that prefer the first

    def trained(experts: int) -> float:
        draw = torch.randn(experts, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        rewards = (0.1 * draw).requires_grad_()  # (K, responses)
        log_w = torch.full((3, experts), -np.log(experts), dtype=torch.float64)  # (pairs, K)
        optimiser = torch.optim.Adam([rewards], lr=0.05)
        for _ in range(1000):
            margin = (rewards[:, first] - rewards[:, second]).T  # (pairs, K)
            log_ratio = torch.stack([margin / 2, -margin / 2], dim=-1)
            won, lost = log_mbt_likelihood(log_w, log_ratio), log_mbt_likelihood(log_w, -log_ratio)
            loss = -(share * won + (1 - share) * lost).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss.item()

    assert trained(1) == pytest.approx(np.log(2), abs=1e-4)
    assert trained(3) == pytest.approx(-(2 * np.log(2 / 3) + np.log(1 / 3)) / 3, abs=1e-3)
