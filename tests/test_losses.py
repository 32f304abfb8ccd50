"""The losses against hand-worked numbers, the paper's identities, known annotators, and TRL's DPO."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import changed, minibatch
from datasets import Dataset
from scipy.optimize import linear_sum_assignment, minimize
from scipy.special import softmax
from sklearn.metrics import confusion_matrix
from transformers import AutoTokenizer

from mixdpo.method.language import load_language_model
from mixdpo.method.losses import (
    elbo,
    expert_loss,
    gate_loss,
    log_bradley_terry,
    log_mbt_likelihood,
    log_partition,
    log_reward_posterior,
    mixture_weights,
    responsibilities,
    reward_update,
)
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.method.triplets import Triplets
from mixdpo.stages.reference_log_probs import log_probs, texts_of

torch.manual_seed(0)
B, K = 64, 4
R = torch.randn(B, K, 2, dtype=torch.float64) * 3
LOG_W = torch.log_softmax(torch.randn(B, K, dtype=torch.float64), -1)


def test_by_hand():
    """w = (1/4, 3/4), r = ((ln 3, 0), (0, 0)): σ = (3/4, 1/2), so P = 3/16 + 3/8 = 9/16 and q = (1/3, 2/3).

    q⁽ʳ⁾(y⁺) ∝ (1/4·3, 3/4·1) = (1/2, 1/2); q⁽ʳ⁾(y⁻) ∝ (1/4, 3/4). At log_ratio 0 expert 1's loss is
    −1/3·ln(½ / (½ + ¼)) = 1/3·ln(3/2).
    """
    log_w = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    r = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]]], dtype=torch.float64)
    assert log_mbt_likelihood(log_w, r).exp().item() == pytest.approx(9 / 16)
    q, log_q_r = responsibilities(log_w, log_bradley_terry(r)), log_reward_posterior(log_w, r)
    assert q[0].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert log_q_r.exp()[0].flatten().tolist() == pytest.approx([0.5, 0.25, 0.5, 0.75])
    loss = expert_loss(torch.zeros_like(r), q, log_q_r, beta=0.1)
    assert loss[0, 0].item() == pytest.approx(math.log(1.5) / 3)


def test_theorem_1_bound_holds_and_is_tight_at_the_posterior():
    def elbo(q):
        return (q * (LOG_W + log_bradley_terry(R) - q.log())).sum(-1)

    marginal = log_mbt_likelihood(LOG_W, R)
    for _ in range(20):
        assert (elbo(torch.softmax(torch.randn(B, K, dtype=torch.float64) * 2, -1)) <= marginal + 1e-12).all()
    torch.testing.assert_close(elbo(responsibilities(LOG_W, log_bradley_terry(R))), marginal)


def test_theorem_2_and_the_corrected_reward_of_lemma_3():
    """Equation (8) for a random q^(π); and r̃_k = r_k − log(q⁽ʳ⁾_k / w_k) is the mixture reward for every k."""
    r, log_q_r = R[..., 0], log_reward_posterior(LOG_W, R)[..., 0]
    mixture = torch.logsumexp(LOG_W + r, -1)
    log_q_pi = torch.log_softmax(torch.randn(B, K, dtype=torch.float64), -1)
    bracket = r + LOG_W - log_q_pi
    divergence = (log_q_pi.exp() * (log_q_pi - log_q_r)).sum(-1)
    torch.testing.assert_close((log_q_pi.exp() * bracket).sum(-1) + divergence, mixture)
    torch.testing.assert_close(r - (log_q_r - LOG_W), mixture.unsqueeze(-1).expand(-1, K))


def test_one_expert_is_dpo_in_value_and_gradient():
    log_ratio = torch.randn(B, 1, 2, dtype=torch.float64, requires_grad=True)
    r, log_w = 0.1 * log_ratio.detach(), torch.zeros(B, 1, dtype=torch.float64)
    loss = expert_loss(
        log_ratio, responsibilities(log_w, log_bradley_terry(r)), log_reward_posterior(log_w, r), 0.1
    ).mean()
    dpo = -torch.nn.functional.logsigmoid(0.1 * (log_ratio[:, 0, 0] - log_ratio[:, 0, 1])).mean()
    torch.testing.assert_close(loss, dpo)
    torch.testing.assert_close(torch.autograd.grad(loss, log_ratio)[0], torch.autograd.grad(dpo, log_ratio)[0])


def test_gradient_of_section_d2_has_a_minus_in_both_terms():
    """∇ = β q A⁻/(A⁺ + A⁻)·(∇log π(y⁻) − ∇log π(y⁺)): the paper's last line prints A⁺ before the first of them."""
    log_ratio = torch.randn(B, K, 2, dtype=torch.float64, requires_grad=True)
    q, log_q_r = responsibilities(LOG_W, log_bradley_terry(R)), log_reward_posterior(LOG_W, R)
    gradient = torch.autograd.grad(expert_loss(log_ratio, q, log_q_r, 0.3).sum(), log_ratio)[0]
    share = torch.softmax(0.3 * log_ratio + log_q_r, -1)[..., 1]
    torch.testing.assert_close(gradient, 0.3 * (q * share).unsqueeze(-1) * torch.tensor([-1.0, 1.0]))


def test_responsibilities_are_constants_of_the_expert_losses():
    """q and q⁽ʳ⁾ that still hang on log_ratio give the gradient of q and q⁽ʳ⁾ that do not."""
    log_ratio = torch.randn(B, K, 2, dtype=torch.float64, requires_grad=True)
    r, gradients = 0.3 * log_ratio, []
    for q, log_q_r in [
        (responsibilities(LOG_W, log_bradley_terry(s)), log_reward_posterior(LOG_W, s)) for s in (r, r.detach())
    ]:
        gradients += torch.autograd.grad(expert_loss(log_ratio, q, log_q_r, 0.3).sum(), log_ratio)
    assert gradients[0].equal(gradients[1])


def test_log_space_survives_extremes():
    r = torch.tensor([[[-1000.0, 1000.0], [1000.0, -1000.0]]])
    log_w = torch.tensor([[-1e-30, -300.0]])
    for value in (
        log_mbt_likelihood(log_w, r),
        responsibilities(log_w, log_bradley_terry(r)),
        log_reward_posterior(log_w, r),
    ):
        assert torch.isfinite(value).all()


def test_elbo_at_the_posterior_is_the_marginal_likelihood_and_no_other_q_reaches_it():
    """Theorem 1 with the project's own `elbo`; responsibilities of exactly 0 count 0 log 0 = 0.

    By hand, w = (1/4, 3/4) and σ = (3/4, 1/2) as above: at q = (1, 0) the bound is ln(3/16), at q = (1/3, 2/3) it is
    1/3·ln(9/16) + 2/3·ln(9/16) = ln(9/16), the log likelihood.
    """
    log_w = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    r = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]]], dtype=torch.float64)
    assert elbo(log_w, r, torch.tensor([[1.0, 0.0]], dtype=torch.float64)).item() == pytest.approx(math.log(3 / 16))
    assert elbo(log_w, r, responsibilities(log_w, log_bradley_terry(r))).item() == pytest.approx(math.log(9 / 16))
    marginal = log_mbt_likelihood(LOG_W, R)
    torch.testing.assert_close(elbo(LOG_W, R, responsibilities(LOG_W, log_bradley_terry(R))), marginal)
    for scale in (0.1, 1.0, 10.0):
        q = torch.softmax(scale * torch.randn(B, K, dtype=torch.float64), -1)
        assert (elbo(LOG_W, R, q) < marginal).all()


REFERENCE = -20 * torch.rand(B, 1, 2, dtype=torch.float64)
LOG_RATIO = 5 * torch.randn(B, K, 2, dtype=torch.float64)
UPDATES = ("implicit", "one_step", "partition")


def test_reward_updates_by_hand():
    """β = 1, w = (1/2, 1/2), π_ref = 1/2 for both responses, log_ratio = ((ln 2, 0), (0, 0)).

    q⁽ʳ⁾(y⁺) = (2/3, 1/3), q⁽ʳ⁾(y⁻) = (1/2, 1/2), so `one_step` gives r_1 = (ln 2 + ln 4/3, 0) = (ln 8/3, 0) and
    r_2 = (ln 2/3, 0). The mixture rewards are (ln 3/2, 0), so Z = 1/2·3/2 + 1/2 = 5/4 and `partition` adds ln 5/4.
    """
    log_ratio = torch.tensor([[[math.log(2), 0.0], [0.0, 0.0]]], dtype=torch.float64)
    reference, log_w = torch.full((1, 1, 2), 0.5).double().log(), torch.full((1, 2), 0.5).double().log()
    found = {kind: reward_update(kind, log_ratio, reference, log_w, 1.0)[0].exp().flatten() for kind in UPDATES}
    assert found["implicit"].tolist() == pytest.approx([2, 1, 1, 1])
    assert found["one_step"].tolist() == pytest.approx([8 / 3, 1, 2 / 3, 1])
    assert found["partition"].tolist() == pytest.approx([10 / 3, 5 / 4, 5 / 6, 5 / 4])


@pytest.mark.parametrize("kind", UPDATES)
def test_one_expert_has_the_margins_of_dpo_under_every_reward_update(kind):
    """With K = 1, q⁽ʳ⁾ = 1 and Z cancels: margins are β (log_ratio⁺ − log_ratio⁻), whatever the rewards were before."""
    log_ratio, log_w = LOG_RATIO[:, :1], torch.zeros(B, 1, dtype=torch.float64)
    for previous in (None, R[:, :1]):
        r, log_q_r = reward_update(kind, log_ratio, REFERENCE, log_w, 0.3, previous)
        torch.testing.assert_close(r[..., 0] - r[..., 1], 0.3 * (log_ratio[..., 0] - log_ratio[..., 1]))
        assert log_q_r.abs().max() < 1e-12


@pytest.mark.parametrize("kind", UPDATES)
def test_reward_updates_satisfy_equation_10(kind):
    """exp(r_k) = (π_k Z_k / π_ref)^β q⁽ʳ⁾_k / w_k with the q⁽ʳ⁾ that the losses see; implicit is the same at q⁽ʳ⁾ = w.

    `partition` without earlier rewards is `one_step` but for β log Z_k, which both completions share.
    """
    r, log_q_r = reward_update(kind, LOG_RATIO, REFERENCE, LOG_W, 0.3)
    assert r.shape == log_q_r.shape == (B, K, 2)
    if kind == "implicit":
        torch.testing.assert_close(r, 0.3 * LOG_RATIO)
        assert not log_q_r.any()
        return
    torch.testing.assert_close(log_q_r.exp().sum(1), torch.ones(B, 2, dtype=torch.float64))
    old, z = 0.3 * LOG_RATIO, torch.ones(B, K, 1, dtype=torch.float64)
    if kind == "partition":
        z = (REFERENCE.exp() * (old.exp() * LOG_W.exp()[..., None] / log_q_r.exp()) ** (1 / 0.3)).sum(-1, keepdim=True)
    expected = (LOG_RATIO.exp() * z) ** 0.3 * log_q_r.exp() / LOG_W.exp()[..., None]
    torch.testing.assert_close(r.exp(), expected)
    shift = r - reward_update("one_step", LOG_RATIO, REFERENCE, LOG_W, 0.3)[0]
    torch.testing.assert_close(shift[..., 0], shift[..., 1])


def test_partition_function_is_the_same_for_every_expert():
    """r_k + log w_k − log q⁽ʳ⁾_k is the mixture reward, so every Z_k is Σ π_ref exp(r/β) when q⁽ʳ⁾ belongs to r."""
    log_z = log_partition(REFERENCE, R, log_reward_posterior(LOG_W, R), LOG_W, 0.3)
    mixture = torch.logsumexp(LOG_W[..., None] + R, 1)
    expected = (REFERENCE[:, 0].exp() * (mixture / 0.3).exp()).sum(-1).log()
    torch.testing.assert_close(log_z, expected[:, None].expand(-1, K))


def test_equation_10_holds_for_every_split_of_one_mixture_reward():
    """At the one optimal policy π* ∝ π_ref exp(r/β), any expert rewards that mix to r are a fixed point of (10).

    So (10) is a condition on the experts' policies, all equal to π*, and does not tell the rewards apart.
    """
    reference = REFERENCE - torch.logsumexp(REFERENCE, -1, keepdim=True)
    log_q_r = log_reward_posterior(LOG_W, R)
    log_z = log_partition(reference, R, log_q_r, LOG_W, 0.3)
    log_ratio = torch.logsumexp(LOG_W[..., None] + R, 1, keepdim=True) / 0.3 - log_z[..., None]
    torch.testing.assert_close((reference + log_ratio).exp().sum(-1), torch.ones(B, K, dtype=torch.float64))
    torch.testing.assert_close(reward_update("partition", log_ratio, reference, LOG_W, 0.3, R)[0], R)


def test_algorithm_3_repeated_sharpens_for_ever():
    """After n sweeps at unchanged policies q⁽ʳ⁾ ∝ w exp(n β log_ratio): each sweep adds β log_ratio once more.

    r_k + log w_k = β (log_ratio_k + log Z) + log q⁽ʳ⁾_k, and Z is common to all k. Experts that differ at a response
    therefore have no fixed point there, and `partition` depends on the number of epochs.
    """
    r = None
    for sweep in range(1, 6):
        r, log_q_r = reward_update("partition", LOG_RATIO, REFERENCE, LOG_W, 0.3, r)
        torch.testing.assert_close(log_q_r, torch.log_softmax(LOG_W[..., None] + sweep * 0.3 * LOG_RATIO, 1))


def test_gate_loss_is_least_at_the_responsibilities():
    """The gradient of (12) in the logits is w − q; at w = q the loss is the entropy of q, elsewhere KL(q ‖ w) more."""
    q, logits = (
        responsibilities(LOG_W, log_bradley_terry(R)),
        torch.randn(B, K, dtype=torch.float64, requires_grad=True),
    )
    loss = gate_loss(logits.log_softmax(-1), q)
    gradient = torch.autograd.grad(loss.sum(), logits)[0]
    torch.testing.assert_close(gradient, logits.softmax(-1).detach() - q)
    divergence = (q * (q.log() - logits.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(loss - gate_loss(q.log(), q), divergence)
    assert (divergence > 0).all()


def test_mixture_weights_are_the_mean_and_raise_the_likelihood():
    """By hand: q = ((1/2, 1/2), (1, 0)) gives w = (3/4, 1/4). Each EM step on w raises the log likelihood."""
    q = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    assert mixture_weights(q).exp().tolist() == pytest.approx([0.75, 0.25])
    log_w, before = torch.full((K,), 1 / K, dtype=torch.float64).log().expand(B, -1), -torch.inf
    for _ in range(20):
        q = responsibilities(log_w, log_bradley_terry(R))
        now = elbo(log_w, R, q).sum()
        assert now > before
        before, log_w = now, mixture_weights(q).expand(B, -1)
        assert elbo(log_w, R, q).sum() >= now


def test_an_expert_without_responsibility_keeps_a_finite_weight():
    log_w = mixture_weights(torch.tensor([[0.3, 0.7, 0.0], [0.6, 0.4, 0.0]]))
    assert log_w.isfinite().all() and log_w.exp().sum().item() == pytest.approx(1)
    assert log_w[2].exp().item() < 1e-12


@pytest.mark.parametrize("kind", UPDATES)
def test_extreme_probabilities_leave_everything_finite(kind):
    """fp32, log-probabilities of −1000 against references of 0 and the other way round, one weight of e⁻²⁰⁰."""
    log_probs = torch.tensor([[[-1000.0, -1.0], [-1.0, -1000.0]], [[-1000.0, -1000.0], [0.0, 0.0]]], requires_grad=True)
    reference = torch.tensor([[[-1.0, -1000.0]], [[-1000.0, -1.0]]])
    logits = torch.tensor([[0.0, -200.0], [-200.0, 0.0]], requires_grad=True)
    log_w = logits.log_softmax(-1)
    log_ratio, previous = log_probs - reference, None
    for _ in range(3):
        r, log_q_r = reward_update(kind, log_ratio.detach(), reference, log_w.detach(), 0.1, previous)
        previous = r
    q = responsibilities(log_w.detach(), log_bradley_terry(r))
    loss = (expert_loss(log_ratio, q, log_q_r, 0.1).sum(-1) + gate_loss(log_w, q)).sum()
    loss.backward()
    for value in (r, log_q_r, q, loss, log_probs.grad, logits.grad, log_mbt_likelihood(log_w, r), elbo(log_w, r, q)):
        assert torch.isfinite(value).all()
    assert mixture_weights(q).isfinite().all()


def printed_objective(q, utility, w, *, entropy, confidence, kl_uniform, kl_w):
    """Lemma 6's regularised objective of one triplet, term by term as the paper prints it."""
    h = -(q * np.log(q)).sum()
    uniform, prior = (q * np.log(q * len(q))).sum(), (q * np.log(q / w)).sum()
    return (q * utility).sum() + entropy * h - confidence * h - kl_uniform * uniform - kl_w * prior


@pytest.mark.parametrize("seed", range(5))
def test_lemma_6_is_the_maximum_of_the_printed_objective(seed):
    """A numerical maximisation over the simplex, for random λ, finds the closed form with our sign of λ_ent − λ_conf."""
    rng = np.random.default_rng(seed)
    utility, w = rng.normal(size=3), rng.dirichlet(np.ones(3))
    weights = dict(zip(("entropy", "confidence", "kl_uniform", "kl_w"), rng.uniform(0.2, 1.5, 4)))
    weights["confidence"] *= 0.5 * (weights["entropy"] + weights["kl_uniform"] + weights["kl_w"]) / 1.5

    def negative(logits):
        return -printed_objective(softmax(logits), utility, w, **weights)

    best = softmax(minimize(negative, np.zeros(3), tol=1e-12).x)
    ours = responsibilities(torch.tensor(w)[None].log(), torch.tensor(utility)[None], **weights)[0]
    assert ours.tolist() == pytest.approx(best.tolist(), abs=1e-5)


def test_lemma_6_by_hand():
    """w = (1/4, 3/4), σ = (3/4, 1/2): wσ = (3/16, 6/16). λ_KLw = 1 alone is Theorem 1's posterior, (1/3, 2/3).

    With λ_ent = 1 beside it α = 2, so q ∝ (1, √2) = (√2 − 1, 2 − √2): entropy explores. With λ_conf = 1/2, α = 1/2
    and q ∝ (1, 4) = (1/5, 4/5): confidence sharpens. α ≤ 0 has no maximum.
    """
    log_w = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    utility = torch.tensor([[0.75, 0.5]], dtype=torch.float64).log()

    def q(**changes):
        return responsibilities(log_w, utility, **changes)[0].tolist()

    assert q() == pytest.approx([1 / 3, 2 / 3])
    assert q(entropy=1.0) == pytest.approx([2**0.5 - 1, 2 - 2**0.5])
    assert q(confidence=0.5) == pytest.approx([0.2, 0.8])
    for changes in ({"confidence": 1.0}, {"confidence": 2.0}, {"kl_w": 0.0}):
        with pytest.raises(ValueError, match="> 0, found"):
            q(**changes)


def annotated_world(seed: int, n: int = 4000, pairs: int = 4, responses: int = 8, scale: float = 5.0):
    """features (prompts, responses, 3), prompt (n,), (chosen, rejected) (n, 2), annotator (n,), P(order | annotator).

    Annotator a sees feature a alone and prefers by Bradley–Terry with `scale` times it; each triplet has one annotator.
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n // pairs, responses, 3, generator=generator)
    prompt = torch.arange(n // pairs).repeat_interleave(pairs)
    pair = torch.rand(n, responses, generator=generator).argsort(1)[:, :2]
    annotator = torch.randint(3, (n,), generator=generator)
    margin = scale * (features[prompt, pair[:, 0]] - features[prompt, pair[:, 1]])  # (n, 3)
    swap = torch.rand(n, generator=generator) > margin.gather(1, annotator[:, None])[:, 0].sigmoid()
    pair = torch.where(swap[:, None], pair.flip(1), pair)
    return features, prompt, pair, annotator, torch.where(swap[:, None], -margin, margin).sigmoid()


def expectation_maximisation(update: str, experts: int, seed: int, world, held_out, beta: float = 0.1):
    """3 epochs of minibatch EM on log-linear policies over the 8 responses; q and mean log likelihood, held out."""
    features, prompt, pair, *_ = world
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(experts, 3, generator=generator).requires_grad_()
    log_w, optimizer = torch.full((experts,), 1 / experts).log(), torch.optim.Adam([theta], lr=2.0)
    reference, rewards = torch.full((1, 1, 2), 1 / 8).log(), torch.zeros(len(prompt), experts, 2)

    def log_ratio(features, prompt, pair):
        log_probs = torch.einsum("prf,kf->pkr", features, theta).log_softmax(-1)
        return log_probs[prompt].gather(2, pair[:, None].expand(-1, experts, -1)) - reference

    for epoch in range(3):
        for rows in torch.randperm(len(prompt), generator=generator).split(100):
            ratio, prior = log_ratio(features, prompt[rows], pair[rows]), log_w.expand(len(rows), -1)
            previous = rewards[rows] if epoch else None
            r, log_q_r = reward_update(update, ratio.detach(), reference, prior, beta, previous)
            rewards[rows] = r
            q = responsibilities(prior, log_bradley_terry(r))
            optimizer.zero_grad()
            expert_loss(ratio, q, log_q_r, beta).sum(1).mean().backward()
            optimizer.step()
            log_w = mixture_weights(q)
    with torch.no_grad():
        ratio, prior = log_ratio(*held_out[:3]), log_w.expand(len(held_out[1]), -1)
        r, _ = reward_update(update, ratio, reference, prior, beta)
        return responsibilities(prior, log_bradley_terry(r)), log_mbt_likelihood(prior, r).mean().item()


@pytest.mark.parametrize("update", UPDATES)
def test_em_recovers_known_annotators(update):
    """argmax q against the annotator, best permutation, 4,000 held-out triplets, seeds 0 to 3; chance is 0.333.

    Measured: accuracy `implicit` 0.573 (0.567 to 0.581), `one_step` 0.564 (0.556 to 0.568), `partition` 0.562
    (0.553 to 0.566); the posterior of the true annotators attains 0.577. Negative log likelihood, each under its own
    rewards: 0.547, 0.571, 0.575; a single expert 0.593, the true annotators 0.543.
    """
    world, held_out = annotated_world(1), annotated_world(2)
    annotator, likelihood = held_out[3:]
    ceiling = (likelihood.argmax(1) == annotator).float().mean().item()
    accuracy, nll, single = [], [], []
    for seed in range(4):
        q, log_likelihood = expectation_maximisation(update, 3, seed, world, held_out)
        confusion = confusion_matrix(annotator, q.argmax(1))
        rows, columns = linear_sum_assignment(-confusion)
        accuracy.append(confusion[rows, columns].sum() / len(annotator))
        nll.append(-log_likelihood)
        single.append(-expectation_maximisation(update, 1, seed, world, held_out)[1])
    assert min(accuracy) - 1 / 3 > 0.85 * (ceiling - 1 / 3)
    assert np.mean(accuracy) - 1 / 3 > 0.9 * (ceiling - 1 / 3)
    assert np.mean(nll) < np.mean(single) - 0.005


def test_em_without_a_broken_tie_finds_no_annotator():
    """Equal experts have equal gradients: after 40 steps θ is still the same for all, and q = 1/3."""
    features, prompt, pair, *_ = annotated_world(1, n=400)
    theta = torch.ones(3, 3).requires_grad_()
    log_w, optimizer = torch.full((400, 3), 1 / 3).log(), torch.optim.Adam([theta], lr=1.0)
    reference = torch.full((1, 1, 2), 1 / 8).log()
    for _ in range(40):
        log_probs = torch.einsum("prf,kf->pkr", features, theta).log_softmax(-1)[prompt]
        ratio = log_probs.gather(2, pair[:, None].expand(-1, 3, -1)) - reference
        r, log_q_r = reward_update("one_step", ratio.detach(), reference, log_w, 0.1)
        q = responsibilities(log_w, log_bradley_terry(r))
        optimizer.zero_grad()
        expert_loss(ratio, q, log_q_r, 0.1).sum(1).mean().backward()
        optimizer.step()
    torch.testing.assert_close(theta, theta[:1].expand(3, -1))
    torch.testing.assert_close(q, torch.full_like(q, 1 / 3))
    assert (theta - 1).abs().min() > 0.1


def test_parity_with_trl(model_folder, method, tmp_path):
    """Loss and every gradient of one DPO batch equal those of TRL's trainer on the same tokens."""
    trl = pytest.importorskip("trl", reason="TRL is a development dependency: pip install -e .[dev]")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.pad_token = tokenizer.eos_token
    data = Dataset.from_list(
        [
            {"prompt": "The film is", "chosen": " a quiet story about sisters.", "rejected": " old."},
            {"prompt": "I liked", "chosen": " the acting", "rejected": " nobody in this book, and that is why"},
            {"prompt": "Skip it. The jokes", "chosen": " work.", "rejected": " are old and far too long."},
        ]
    )
    runtime = Runtime("cpu", "fp32", 1)
    policy, reference = load_language_model(model_folder, runtime), load_language_model(model_folder, runtime)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.05 * torch.randn_like(weight)
    trainer = trl.DPOTrainer(
        policy,
        reference,
        args=trl.DPOConfig(
            str(tmp_path),
            beta=0.1,
            per_device_train_batch_size=3,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
        ),
        train_dataset=data,
        processing_class=tokenizer,
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    policy.eval()
    theirs = trainer.compute_loss(policy, dict(inputs))
    theirs.backward()
    expected = {name: p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()

    prompts, completions = [], []
    for ids, mask, real in zip(inputs["input_ids"], inputs["completion_mask"].bool(), inputs["attention_mask"].bool()):
        prompts.append(ids[real & ~mask].tolist())
        completions.append(ids[mask].tolist())
    half = len(prompts) // 2  # chosen first
    ids = {"prompt_ids": prompts[:half], "chosen_ids": completions[:half], "rejected_ids": completions[half:]}
    ref = log_probs(reference, texts_of(prompts, completions), runtime)
    triplets = Triplets(pd.DataFrame(ids), pd.DataFrame({"chosen": ref[:half], "rejected": ref[half:]}))
    trained = Policy.from_language_model(policy, independent_models=1)
    objective = PreferenceObjective(trained, changed(method, experts={"models": 1}), runtime)
    ours, _ = minibatch(objective, triplets, np.arange(half))
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for name, p in trained.independent[0].named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
