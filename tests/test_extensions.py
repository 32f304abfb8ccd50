"""Appendices E, B.3 and G, and users: relaxation, phases, adapters, given experts, a gate that sees the user."""

import copy
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import changed, minibatch, spec_of, steps_of
from transformers import AutoModelForCausalLM

from mixdpo.errors import UserError
from mixdpo.method.fit import fit
from mixdpo.method.initial import build
from mixdpo.method.language import TokenBatch
from mixdpo.method.losses import elbo, kl_to_uniform, relaxed_loss, responsibilities
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.policy import Policy
from mixdpo.method.triplets import Triplets
from mixdpo.method.weights import GateWeights
from mixdpo.stages.policies import policies

PROMPTS = [[5, 6, 7], [8, 9]]
BATCH = [[5, 6, 7], [8, 9]], [(1, 2, 3), (4, 5)]


GATE, USER_GATE = {"kind": "gate"}, {"kind": "gate", "sees": "user"}


def objective_of(method, model_folder, triplets, runtime, **given) -> PreferenceObjective:
    objective = PreferenceObjective(build(method, model_folder, runtime, seed=0, **given), method, runtime)
    objective.prepare(triplets, steps_of(method, triplets))
    return objective


def train(objective, triplets, runtime, folder) -> pd.DataFrame:
    folder.mkdir(exist_ok=True)
    method = objective.method
    optimiser = method.optimiser
    how = {"optimiser": optimiser, "seed": 0, "runtime": runtime, "resume": folder, "after_step": objective.after_step}
    rates = {True: optimiser.gate_learning_rate, False: optimiser.learning_rate}
    how |= {"learning_rates": lambda name: rates[".weights." in name]}
    return fit(objective, len(objective.batches), objective.parts, objective.loss, **how)


# Relaxation (E.2)


@pytest.mark.parametrize("logits", ["posterior", "prior"])
def test_cold_relaxation_is_the_bound_at_draws_of_the_expert(logits):
    """τ → 0 makes z one-hot: −loss → log w_z σ_z, whose mean over draws from α is Σ α_z log(w_z σ_z), worked exactly."""
    log_w = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64).log()
    utility = torch.tensor([[0.9, 0.5, 0.2]], dtype=torch.float64).log()
    torch.manual_seed(0)
    loss, z = relaxed_loss(log_w, utility, logits=logits, samples=40_000, temperature=1e-3)
    alpha = responsibilities(log_w, utility) if logits == "posterior" else log_w.exp()
    assert z[0].tolist() == pytest.approx(alpha[0].tolist(), abs=0.01)
    expected = -(alpha * (log_w + utility)).sum().item()
    assert loss.item() == pytest.approx(expected, abs=0.01)
    bound = elbo(log_w, torch.stack([utility.exp().logit(), torch.zeros(1, 3)], dim=-1), alpha).item()
    entropy = -(alpha * alpha.log()).sum().item()
    assert -expected + entropy == pytest.approx(bound, abs=1e-9)


def test_relaxation_moves_experts_and_weights():
    """Gradients reach both; with the prior's logits the weights learn through z alone, and favour the better expert."""
    log_w = torch.full((4, 2), 0.5).log().requires_grad_()
    utility = torch.tensor([[0.9, 0.1]]).log().expand(4, 2).clone().requires_grad_()
    for logits in ("posterior", "prior"):
        torch.manual_seed(0)
        loss, z = relaxed_loss(log_w, utility, logits=logits, samples=500, temperature=0.5)
        gradient, to_experts = torch.autograd.grad(loss.sum(), (log_w, utility))
        assert (gradient[:, 0] < gradient[:, 1]).all() and (to_experts[:, 0] < 0).all()
        assert torch.allclose(z.sum(dim=1), torch.ones(4)) and not z.requires_grad


@pytest.mark.parametrize("logits", ["posterior", "prior"])
def test_training_by_relaxation_needs_no_e_step(logits, model_folder, triplets, method, runtime, tmp_path):
    relaxation = {"logits": logits, "samples": 2, "temperature": [1.0, 0.3]}
    method = changed(method, experts={"heads": 2}, weights=GATE, posterior={"relaxation": relaxation})
    curves = []
    for folder in ("once", "again"):
        objective = objective_of(method, model_folder, triplets, runtime)
        before = copy.deepcopy(objective.policy.state_dict())
        curves.append(train(objective, triplets, runtime, tmp_path / folder))
    moved = {name for name, value in objective.policy.state_dict().items() if not value.equal(before[name])}
    assert {"heads.0.weight", "heads.1.weight", "weights.linear.weight"} <= moved
    pd.testing.assert_frame_equal(*curves)
    assert curves[0]["nll"].iloc[-3:].mean() < curves[0]["nll"].iloc[:3].mean()


# Phases (E.1)


def test_each_phase_has_its_own_settings(model_folder, triplets, method, runtime):
    flat, sharp = {"entropy": 9}, {"confidence": 0.5}
    phases = [{"until": 0.5, "posterior": flat}, {"until": 1.0, "posterior": sharp, "beta": 0.05}]
    method = changed(method, experts={"heads": 3, "perturbation": 1.0}, phases=phases)
    objective = objective_of(method, model_folder, triplets, runtime)
    objective.prepare(triplets, [np.arange(30)] * 100)
    spread, margin, step = {}, {}, objective.em_step

    def em_step(*given, **how):
        found = step(*given, **how)
        spread[share] = found[1].std(dim=1).mean().item()
        return found

    objective.em_step = em_step
    for share in (0.0, 0.49, 0.5, 0.9):
        margin[share] = objective.loss(*objective.parts(round(100 * share)))[1]["margin"].item()
    assert spread[0.0] == spread[0.49] < spread[0.5] / 3 and spread[0.5] == spread[0.9]
    assert margin[0.0] == margin[0.49] == pytest.approx(2 * margin[0.5]) and margin[0.5] == margin[0.9]


def test_a_gate_is_held_to_the_uniform_distribution(model_folder, triplets, method, runtime):
    """KL(w ‖ uniform) by hand: w = (1/4, 3/4) gives log 2 + ¼ log ¼ + ¾ log ¾."""
    log_w = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    assert kl_to_uniform(log_w).item() == pytest.approx(np.log(2) + 0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    losses = []
    for weight in (0.0, 2.0):
        gated = changed(method, experts={"heads": 2}, weights=GATE | {"kl_uniform": weight})
        objective = objective_of(gated, model_folder, triplets, runtime)
        objective.policy.weights.linear.bias.data.copy_(log_w[0])
        losses.append(minibatch(objective, triplets, np.arange(6))[0].item())
    assert losses[1] - losses[0] == pytest.approx(2 * kl_to_uniform(log_w).item(), rel=1e-4)


# Gradient accumulation


@pytest.mark.parametrize("weights", ["global", "gate"])
def test_parts_of_a_step_add_up_to_the_step(weights, model_folder, triplets, method, runtime):
    """Loss, figures and every gradient are those of the whole minibatch; the triplets of a pair stay together."""
    method = changed(method, experts={"heads": 2}, weights={"kind": weights})
    rows, results = triplets.rows(np.arange(7)), []
    for accumulate in (1, 3, 100):
        parted = changed(method, optimiser={"accumulate": accumulate})
        objective = objective_of(parted, model_folder, triplets, runtime)
        objective.prepare(triplets, [rows])
        parts, figures = objective.parts(0), Counter()
        assert len(parts) == min(accumulate, 7)
        for part in parts:
            value, shown = objective.loss(part)
            value.backward()
            figures.update({"loss": value.item()} | {name: figure.item() for name, figure in shown.items()})
        gradients = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
        results.append((figures, gradients, objective.mean_q))
    for figures, gradients, mean_q in results[1:]:
        assert figures == pytest.approx(results[0][0], rel=1e-4, abs=1e-6)
        torch.testing.assert_close(mean_q, results[0][2])
        for name, gradient in results[0][1].items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-6)


# Adapters


def test_adapters_start_as_copies_and_share_one_model(model_folder, method, runtime):
    policy = build(changed(method, experts={"adapters": 3, "perturbation": 0.0}), model_folder, runtime, seed=0)
    batch = TokenBatch.of(*BATCH, "cpu")
    alone = Policy.from_pretrained(model_folder, runtime)
    with torch.no_grad():
        torch.testing.assert_close(policy.log_probs(batch), alone.log_probs(batch).expand(2, 3))
    learned = {name for name, p in policy.named_parameters() if p.requires_grad} - {"weights.log_w"}
    assert learned and all(".lora_" in name for name in learned)
    whole = sum(p.numel() for p in alone.parameters())
    assert sum(p.numel() for p in policy.parameters()) < 2 * whole


def test_adapters_learn_all_at_once_and_survive_the_disk(model_folder, triplets, method, runtime, tmp_path):
    experts = {"adapters": 2, "perturbation": 0.05}
    method = changed(method, experts=experts, optimiser={"learning_rate": 1e-2})
    objective = objective_of(method, model_folder, triplets, runtime)
    before = copy.deepcopy(objective.policy.state_dict())
    curve = train(objective, triplets, runtime, tmp_path / "resume")
    moved = {name for name, value in objective.policy.state_dict().items() if not value.equal(before[name])}
    assert {"expert0", "expert1"} == {name.split(".")[-2] for name in moved if ".lora_" in name}
    assert not [name for name in moved if ".lora_" not in name and name != "weights.log_w"]
    assert curve["nll"].iloc[-3:].mean() < curve["nll"].iloc[:3].mean()
    objective.policy.save_pretrained(tmp_path / "model")
    again = Policy.from_pretrained(tmp_path / "model", runtime)
    batch = TokenBatch.of(*BATCH, "cpu")
    with torch.no_grad():
        both = objective.policy.log_probs(batch)
        torch.testing.assert_close(again.log_probs(batch), both)
        for k in range(2):
            merged = Policy.from_language_model(again.expert(k), independent_models=1)
            torch.testing.assert_close(merged.log_probs(batch)[:, 0], both[:, k], rtol=1e-4, atol=1e-4)
    how = {"runtime": runtime, "seed": 1, "max_new_tokens": 5}
    for routing in ({"expert": 1}, {"mixture": "token"}, {"mixture": "sequence"}):
        drawn = objective.policy.generate(PROMPTS, **how, **routing)
        assert again.generate(PROMPTS, **how, **routing) == drawn


def test_the_noise_of_adapters_has_the_given_size(model_folder, method, runtime):
    policy = build(changed(method, experts={"adapters": 2, "perturbation": 0.1}), model_folder, runtime, seed=3)
    layers = [m for m in policy.adapted.modules() if "expert0" in getattr(m, "lora_A", {})]
    assert layers
    for layer in layers:
        ratios = []
        for name in policy.adapters:
            update = layer.lora_B[name].weight @ layer.lora_A[name].weight * layer.scaling[name]
            ratios.append((update.square().mean() / layer.base_layer.weight.square().mean()).sqrt().item())
        assert ratios == pytest.approx([0.1, 0.1], rel=1e-3)


# Given experts


@pytest.mark.parametrize("kind", ["heads", "models"])
def test_an_expert_alone_is_a_language_model_of_transformers(kind, model_folder, method, runtime, tmp_path):
    policy = build(changed(method, experts={kind: 2, "perturbation": 0.5}), model_folder, runtime, seed=0)
    batch = TokenBatch.of(*BATCH, "cpu")
    for k in range(2):
        policy.expert(k).save_pretrained(tmp_path / str(k))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / str(k))
        with torch.no_grad():
            alone = Policy.from_language_model(model.eval(), independent_models=1).log_probs(batch)
            torch.testing.assert_close(alone[:, 0], policy.log_probs(batch)[:, k])


def test_only_the_weights_learn_over_given_experts(model_folder, preferences_folder, method, runtime, tmp_path):
    """Appendix E: experts trained before, one swapped in by its number; a gate alone learns, from 1/K."""
    inputs = {"reference": model_folder.parent}
    inputs |= {name: preferences_folder / name for name in ("preferences", "reference_log_probs")}
    trained = {}
    for name, experts in {"mix": {"heads": 2, "perturbation": 0.5}, "dpo": {"models": 1}}.items():
        trained[name], resume = tmp_path / name, tmp_path / f"{name}.resume"
        trained[name].mkdir()
        resume.mkdir()
        policies(trained[name], spec_of(changed(method, experts=experts)), runtime=runtime, resume=resume, **inputs)
    given = changed(method, experts={"initial": ["mix/1", "dpo"], "learn": False}, weights=GATE)
    out, resume = tmp_path / "gate", tmp_path / "gate.resume"
    out.mkdir()
    resume.mkdir()
    policies(out, spec_of(given), runtime=runtime, resume=resume, **inputs, **trained)
    policy, batch = Policy.from_pretrained(out / "model", runtime), TokenBatch.of(*BATCH, "cpu")
    with torch.no_grad():
        found = policy.log_probs(batch)
        mix, dpo = (Policy.from_pretrained(trained[name] / "model", runtime).log_probs(batch) for name in trained)
    torch.testing.assert_close(found, torch.stack([mix[:, 1], dpo[:, 0]], dim=1))
    assert policy.weights.linear.weight.abs().max() > 0
    with pytest.raises(UserError, match=r"expected an expert of dpo from 0 to 0, found dpo/1"):
        wrong = changed(given, experts={"initial": ["mix/0", "dpo/1"], "learn": False})
        policies(out, spec_of(wrong), runtime=runtime, resume=resume, **inputs, **trained)


# Users


@pytest.fixture
def user_triplets(preferences_folder) -> Triplets:
    """The training triplets, each style the style of two users."""
    frame = pd.read_parquet(preferences_folder / "preferences/train.parquet")
    frame["user"] = [f"{style}-{i % 2}" for i, style in enumerate(frame["style"])]
    return Triplets(frame, pd.read_parquet(preferences_folder / "reference_log_probs/train.parquet"))


def test_a_gate_sees_the_user(model_folder, user_triplets, method, runtime, tmp_path):
    """Weights differ between users of one prompt after training, and what a user gets does not hang on the batch."""
    experts, optimiser = {"heads": 2, "perturbation": 0.5}, {"gate_learning_rate": 1e-2}
    method = changed(method, experts=experts, weights=USER_GATE, optimiser=optimiser)
    users = sorted({user for _, user in user_triplets.contexts})
    objective = objective_of(method, model_folder, user_triplets, runtime, users=users)
    train(objective, user_triplets, runtime, tmp_path / "resume")
    objective.policy.save_pretrained(tmp_path / "model")
    policy = Policy.from_pretrained(tmp_path / "model", runtime)
    with torch.no_grad():
        both = policy.log_weights([PROMPTS[0]] * 2, users[:2])
        alone = policy.log_weights([PROMPTS[0]], users[1:2])
    assert (both[0] - both[1]).abs().max() > 1e-3 and both[1].allclose(alone[0])
    assert list(policy.weights.users) == users and json.loads((tmp_path / "model/policy.json").read_text())["users"]
    how = {"runtime": runtime, "seed": 1, "max_new_tokens": 3}
    assert len(policy.generate(PROMPTS, users=users[:2], **how)) == 2
    assert len(policy.generate(PROMPTS, expert=1, **how)) == 2  # no weights needed, so no user either
    prior = policy.log_weights([PROMPTS[0]] * len(users), users).exp().mean(dim=0)
    for stranger in (["nobody"], None):  # gets the mean of what the known users get
        torch.testing.assert_close(policy.log_weights([PROMPTS[0]], stranger).exp()[0], prior)
        assert len(policy.generate(PROMPTS[:1], users=stranger, **how)) == 1


def test_user_logits_start_off_by_seeded_noise(model_folder, method, runtime):
    method = changed(method, experts={"heads": 2}, weights=USER_GATE)
    noisy = changed(method, weights=USER_GATE | {"perturbation": 0.5})
    users = [f"user-{i:03}" for i in range(200)]
    start = build(noisy, model_folder, runtime, seed=0, users=users)
    with torch.no_grad():
        features = start.weights.features([PROMPTS[0]] * 200, users)
        logits = start.weights.linear(features)
    assert logits.std().item() == pytest.approx(0.5, rel=0.1)
    again = build(noisy, model_folder, runtime, seed=0, users=users)
    assert again.weights.linear.weight.equal(start.weights.linear.weight)
    uniform = build(method, model_folder, runtime, seed=0, users=users).weights
    assert isinstance(uniform, GateWeights) and uniform(features).allclose(torch.tensor(0.5).log())


# Styles


def test_a_policy_of_one_style_sees_no_other(preferences_folder):
    frames = [
        pd.read_parquet(preferences_folder / f"{stage}/train.parquet")
        for stage in ("preferences", "reference_log_probs")
    ]
    whole, one = Triplets(*frames), Triplets(*frames, ["grammar"])
    kept = (whole.labels["style"] == "grammar").to_numpy()
    assert len(one.chosen) == kept.sum() == 10 and set(one.labels["style"]) == {"grammar"}
    np.testing.assert_array_equal(one.reference, whole.reference[kept])
    texts = [whole.texts[i] for i in whole.chosen[kept]]
    assert [one.texts[i] for i in one.chosen] == texts
    with pytest.raises(UserError, match=r"expected some of \['spelling'\], found none; correct styles"):
        Triplets(*frames, ["spelling"])
