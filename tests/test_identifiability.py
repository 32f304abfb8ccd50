"""What the preference likelihood can and cannot tell about experts: evidence for docs/replication-notes.md.

Every pair here is a world of its own: expert k has a free reward margin m_k on it, and three annotation styles label
it, two one way and one the other. Margins follow the gradient of the expert losses with exact E-steps.
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


def converged_margins(update: str, kl_w: float, spread: float, steps: int = 1500) -> torch.Tensor:
    """Margins (K = 3) after gradient EM with w = 1/3, from margins 0.1 apart times `spread`."""
    margin = (torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64) * spread).requires_grad_()
    log_w = torch.full((3, 3), -np.log(3), dtype=torch.float64)  # (labels, K)
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
def test_a_sharper_posterior_splits_them_into_opposites(update):
    """Between nearly equal experts on an undecided pair a difference grows if α < 1 − 1/K, α of Lemma 6.

    For K = 3 that is 2/3; here α = 0.4. What they split into are experts that contradict each other on every pair, not the three styles.
    """
    margins = converged_margins(update, 0.4, 1.0)
    assert margins.max() > 1 > -1 > margins.min()


def test_one_expert_explains_the_labels_as_well_as_three_true_ones():
    """Experts that are the three styles, each certain, give the labels the likelihood that one policy gives them."""
    certain = 1e3 * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    signed = LABELS[:, None] * certain
    log_w = torch.full((3, 3), -np.log(3), dtype=torch.float64)
    three = log_mbt_likelihood(log_w, torch.stack([signed / 2, -signed / 2], dim=-1))
    single = LABELS[:, None] * np.log(2)
    one = log_mbt_likelihood(torch.zeros(3, 1, dtype=torch.float64), torch.stack([single / 2, -single / 2], dim=-1))
    torch.testing.assert_close(three, one)
    assert three.tolist() == pytest.approx(np.log([2 / 3, 2 / 3, 1 / 3]).tolist())
