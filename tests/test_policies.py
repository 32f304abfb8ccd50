"""The training objective for K experts: what a minibatch holds, what moves, what stays, and how ties are broken."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import changed, minibatch, spec_of, steps_of
from safetensors.torch import load_file, save_file

from mixdpo.errors import UserError
from mixdpo.method.fit import fit
from mixdpo.method.initial import build
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.policy import Policy
from mixdpo.method.triplets import Triplets
from mixdpo.stages.policies import policies, triplets_of

ARCHITECTURES = [{"heads": 3}, {"models": 3}, {"heads": 2, "models": 1}]


def names(changes: dict) -> str:
    return "-".join(f"{key}={value}" for key, value in changes.items())


@pytest.fixture(scope="session")
def gate_folder(tmp_path_factory, model_folder):
    """A gate for two experts over the model's 32 features."""
    folder = tmp_path_factory.mktemp("gate")
    torch.manual_seed(0)
    save_file({"weight": 0.1 * torch.randn(2, 32), "bias": torch.zeros(2)}, folder / "gate.safetensors")
    return folder


def layers(policy: Policy) -> list:
    return [policy.output_layer(k) for k in range(policy.experts)]


def objective_of(method, model_folder, triplets, runtime, gate=None) -> PreferenceObjective:
    objective = PreferenceObjective(build(method, model_folder, runtime, seed=0, gate=gate), method, runtime)
    objective.prepare(triplets, steps_of(method, triplets))
    return objective


def train(objective, triplets, runtime, tmp_path) -> tuple[dict, dict]:
    """Every tensor before and after a training by the loop of the policies stage."""
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    fit(
        objective,
        len(objective.batches),
        objective.parts,
        objective.loss,
        optimiser=objective.method.optimiser,
        seed=0,
        runtime=runtime,
        resume=tmp_path,
        after_step=objective.after_step,
    )
    return before, objective.state_dict()


def test_styles_need_preferences_with_styles(preferences_folder):
    frame = pd.read_parquet(preferences_folder / "preferences/train.parquet").drop(columns="style")
    known = pd.read_parquet(preferences_folder / "reference_log_probs/train.parquet")
    with pytest.raises(
        UserError, match=r"styles: expected preferences with a column style, found none; leave styles out"
    ):
        Triplets(frame, known, ["grammar"])


def test_triplets_keep_each_text_once_and_the_views_of_a_pair_together(triplets, preferences_folder):
    """10 pairs seen by three styles: 30 triplets, 20 texts, 10 groups of three."""
    frame = pd.read_parquet(preferences_folder / "preferences/train.parquet")
    assert len(frame) == len(triplets.chosen) == 30 and len(triplets.texts) == 20 and len(triplets.contexts) == 10
    for i, row in enumerate(frame.itertuples()):
        for number, ids in ((triplets.chosen[i], row.chosen_ids), (triplets.rejected[i], row.rejected_ids)):
            assert triplets.texts[number] == (tuple(row.prompt_ids), tuple(ids))
        assert triplets.contexts[triplets.context[i]] == (tuple(row.prompt_ids), "")
    assert sorted(map(len, triplets.groups)) == [3] * 10
    pieces, lengths = triplets.pieces(1)
    for (group,), length in zip(pieces, lengths, strict=True):
        rows = frame.iloc[triplets.groups[group]]
        assert rows["prompt_id"].nunique() == 1 and rows["style"].nunique() == 3
        pair = rows[["chosen_ids", "rejected_ids"]].iloc[0]
        assert length == len(rows["prompt_ids"].iloc[0]) + max(map(len, pair))
    for batches in (triplets.batches(4), [triplets.rows(g) for g in np.array_split(np.arange(10), 3)]):
        assert sorted(np.concatenate(batches)) == list(range(30))
        for batch in batches:
            assert (frame.iloc[batch].groupby("prompt_id").size() == 3).all()


@pytest.mark.parametrize("experts", ARCHITECTURES[:2], ids=names)
@pytest.mark.parametrize("update", ["implicit", "one_step", "partition"])
def test_exact_copies_stay_copies(experts, update, model_folder, triplets, method, runtime, tmp_path):
    """Without perturbation every expert gets the same gradient for ever: q = 1/3 and one policy after 9 steps."""
    method = changed(method, experts=experts | {"perturbation": 0.0}, reward_update=update)
    objective = objective_of(method, model_folder, triplets, runtime)
    before = [layer.weight.detach().clone() for layer in layers(objective.policy)]
    train(objective, triplets, runtime, tmp_path)
    _, q = objective.evaluate(triplets)
    np.testing.assert_allclose(q[["q0", "q1", "q2"]], 1 / 3, atol=1e-4)
    first, *others = (layer.weight for layer in layers(objective.policy))
    for other in others:
        torch.testing.assert_close(first, other, rtol=0, atol=1e-5)
    assert (first - before[0]).abs().max() > 1e-3


@pytest.mark.parametrize("experts", ARCHITECTURES, ids=names)
def test_the_default_perturbation_breaks_the_tie(experts, model_folder, triplets, method, runtime, tmp_path):
    """Responsibilities tell the triplets of one pair apart, and no two experts get the same update.

    Measured over 9 steps: q of one pair's triplets spreads 0.0012 with heads and 0.0015 with models (0 for copies);
    updates differ by 4 % and 30 % of their own size.
    """
    objective = objective_of(changed(method, experts=experts), model_folder, triplets, runtime)
    before = [layer.weight.detach().clone() for layer in layers(objective.policy)]

    def spread():
        q = objective.evaluate(triplets)[1]
        return q.assign(pair=triplets.context).groupby("pair")[["q0", "q1", "q2"]].std().to_numpy().mean()

    assert spread() > 1e-4
    train(objective, triplets, runtime, tmp_path)
    assert spread() > 1e-3
    moves = [layer.weight.detach() - old for layer, old in zip(layers(objective.policy), before)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (moves[a] - moves[b]).norm() > 0.02 * moves[a].norm()


GATE = {"kind": "gate"}
LEARNS = [
    ({"experts": {"heads": 2}}, {"encoder", "heads", "weights.log_w"}),
    ({"experts": {"heads": 2, "encoder": "frozen"}}, {"heads", "weights.log_w"}),
    ({"experts": {"heads": 2}, "weights": {"learn": False, "initial": [0.7, 0.3]}}, {"encoder", "heads"}),
    ({"experts": {"models": 2}}, {"independent", "weights.log_w"}),
    ({"experts": {"heads": 1, "models": 1, "encoder": "frozen"}}, {"heads", "independent", "weights.log_w"}),
    ({"experts": {"heads": 2, "learn": False}}, {"weights.log_w"}),
    ({"experts": {"models": 2, "learn": False}}, {"weights.log_w"}),
    ({"experts": {"heads": 2}, "weights": GATE}, {"encoder", "heads", "weights.linear"}),
    ({"experts": {"heads": 2}, "weights": GATE | {"learn": False}}, {"encoder", "heads"}),
    ({"experts": {"heads": 2, "learn": False}, "weights": GATE}, {"weights.linear"}),
    ({"experts": {"models": 2, "learn": False}, "weights": GATE}, {"weights.linear"}),
]


@pytest.mark.parametrize(("changes", "moves"), LEARNS, ids=[names(changes) for changes, _ in LEARNS])
def test_what_is_frozen_keeps_its_bytes(changes, moves, model_folder, triplets, method, runtime, tmp_path, gate_folder):
    """After training exactly the parts that the method trains differ, and each of them in every tensor's owner."""
    gate = load_file(gate_folder / "gate.safetensors")
    objective = objective_of(changed(method, **changes), model_folder, triplets, runtime, gate)
    before, after = train(objective, triplets, runtime, tmp_path)
    moved = {name.removeprefix("policy.") for name in before if not before[name].equal(after[name])}
    assert {part for part in moves if any(name.startswith(part) for name in moved)} == moves
    assert not [name for name in moved if not name.startswith(tuple(moves))]


def test_fixed_weights_stay_and_learned_ones_are_the_mean_of_q(model_folder, triplets, method, runtime):
    """Section D.4: after a step the weights are the minibatch's mean responsibilities."""
    for learn in (False, True):
        changes = {"initial": [0.5, 0.3, 0.2], "learn": learn}
        objective = objective_of(changed(method, weights=changes), model_folder, triplets, runtime)
        _, shown = minibatch(objective, triplets, np.arange(12))
        mean = objective.mean_q.tolist() if learn else [0.5, 0.3, 0.2]
        assert [shown[f"w{k}"] for k in range(3)] == pytest.approx([0.5, 0.3, 0.2])
        objective.after_step()
        assert objective.policy.weights.log_w.exp().tolist() == pytest.approx(mean)
    assert mean != pytest.approx([0.5, 0.3, 0.2], abs=1e-4)


@pytest.mark.parametrize("update", ["implicit", "one_step", "partition"])
def test_an_initial_weight_of_zero_leaves_the_loss_finite(update, model_folder, triplets, method, runtime):
    """The configuration allows it; that expert takes no part, and the others share the responsibility."""
    method = changed(method, weights={"initial": [0.5, 0.5, 0.0]}, reward_update=update)
    objective = objective_of(method, model_folder, triplets, runtime)
    value, shown = minibatch(objective, triplets, np.arange(12))
    assert torch.isfinite(value) and all(np.isfinite(list(shown.values())))
    assert objective.mean_q[2] < 1e-6


def test_states_of_a_frozen_encoder_are_computed_once(model_folder, triplets, method, runtime):
    """Loss and gradients of the heads are those of the encoder run again, which then gets no gradient."""
    method, rows = changed(method, experts={"heads": 3, "encoder": "frozen"}), np.arange(3, 21)
    kept = objective_of(method, model_folder, triplets, runtime)
    again = objective_of(method, model_folder, triplets, runtime)
    calls = []
    kept.prepare(triplets, [rows])
    again.prepare(triplets, [rows])
    assert len(kept.states) == 1 + sum(map(triplets.places, range(20)))
    again.states = None
    kept.policy.encoder.register_forward_hook(lambda *_: calls.append("kept"))
    again.policy.encoder.register_forward_hook(lambda *_: calls.append("again"))
    one, two = (objective.loss(*objective.parts(0))[0] for objective in (kept, again))
    assert calls == ["again"]
    one.backward()
    two.backward()
    torch.testing.assert_close(one, two)
    for a, b in zip(kept.policy.heads, again.policy.heads):
        assert a.weight.grad.abs().max() > 0
        torch.testing.assert_close(a.weight.grad, b.weight.grad, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in again.policy.encoder.parameters())


def test_a_minibatch_runs_each_text_once(model_folder, triplets, method, runtime):
    """Three triplets of one pair are two texts: one pass of two sequences through the encoder."""
    objective = objective_of(method, model_folder, triplets, runtime)
    shapes = []
    objective.policy.encoder.register_forward_hook(
        lambda module, args, kwargs, out: shapes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    minibatch(objective, triplets, triplets.rows(np.array([4])))
    assert shapes == [2]


def test_partition_keeps_the_rewards_of_each_triplet(model_folder, triplets, method, runtime):
    """A second visit starts from the first one's rewards; triplets of other minibatches still have none."""
    objective = objective_of(changed(method, reward_update="partition"), model_folder, triplets, runtime)
    objective.prepare(triplets, [np.arange(6), np.arange(3, 9)])
    objective.loss(*objective.parts(0))
    first = objective.rewards.clone()
    assert first[:6].isfinite().all() and first[6:-1].isnan().all()
    objective.loss(*objective.parts(1))
    assert objective.rewards[:3].equal(first[:3]) and objective.rewards[3:9].isfinite().all()
    assert (objective.rewards[3:6] - first[3:6]).abs().max() > 1e-3


def test_the_curve_shows_q_by_label_and_validation_by_triplet(model_folder, triplets, method, runtime):
    objective = objective_of(method, model_folder, triplets, runtime)
    rows = np.arange(30)
    _, shown = minibatch(objective, triplets, rows)
    figures, q = objective.evaluate(triplets)
    each = [f"{name}{k}" for name in ("q", "w", "margin") for k in range(3)]
    assert list(q) == ["style", "domain", "prompt", "pair", "chosen_first", "log_p", *each] and len(q) == 30
    assert -q["log_p"].mean() == pytest.approx(figures["nll"], rel=1e-5)
    assert q.filter(regex="margin").to_numpy().mean() == pytest.approx(figures["margin"], rel=1e-4)
    np.testing.assert_allclose(q[["q0", "q1", "q2"]].mean(), objective.mean_q, rtol=1e-4)
    for k in range(3):
        for column in ("style", "domain"):
            for label, mean in q.groupby(column)[f"q{k}"].mean().items():
                assert shown[f"q{k} {label}"] == pytest.approx(mean, rel=1e-4)
    for name in ("nll", "elbo", "accuracy", "margin", "kl"):
        assert figures[name] == pytest.approx(shown[name], rel=1e-3, abs=1e-5)


def test_the_bound_is_tight_at_the_posterior_and_lower_under_lemma_6(model_folder, triplets, method, runtime):
    for entropy, tight in ((0.0, True), (1.0, False)):
        objective = objective_of(changed(method, posterior={"entropy": entropy}), model_folder, triplets, runtime)
        objective.policy.perturb(1.0, seed=1)
        _, shown = minibatch(objective, triplets, np.arange(30))
        assert (shown["elbo"] == pytest.approx(-shown["nll"], abs=1e-6)) == tight
        assert shown["elbo"] < -shown["nll"] + 1e-6


@pytest.mark.parametrize(
    "changes",
    [{"reward_update": "partition"}, {"experts": {"models": 2}, "weights": {"kind": "gate"}}],
    ids=names,
)
def test_the_stage_writes_a_policy_that_loads(
    changes, tmp_path, model_folder, preferences_folder, method, runtime, gate_folder
):
    """After training the training triplets are likelier, and the written policy gives the written responsibilities."""
    (tmp_path / "resume").mkdir()
    method = changed(method, **changes, optimiser={"epochs": 6})
    inputs = {"reference": model_folder.parent, "gate": gate_folder}
    inputs |= {name: preferences_folder / name for name in ("preferences", "reference_log_probs")}
    policies(tmp_path, spec_of(method), runtime=runtime, resume=tmp_path / "resume", **inputs)
    validation = triplets_of(
        preferences_folder / "preferences", preferences_folder / "reference_log_probs", "validation"
    )
    objective = PreferenceObjective(Policy.from_pretrained(tmp_path / "model", runtime), method, runtime)
    figures, q = objective.evaluate(validation)
    written = json.loads((tmp_path / "validation.json").read_text())
    assert written["triplets"] == 12 and written["after"] == pytest.approx(figures)
    assert written["before"] != pytest.approx(figures)
    pd.testing.assert_frame_equal(q.assign(split="validation"), pd.read_parquet(tmp_path / "responsibilities.parquet"))
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert len(curve) == 18 and curve["nll"].iloc[-3:].mean() < curve["nll"].iloc[:3].mean()


def test_a_gate_learns_at_its_own_rate(tmp_path, model_folder, preferences_folder, method, runtime, gate_folder):
    """At a rate of 1e-12 it stays where it was while the experts move; the experts' rate says nothing about it."""
    (tmp_path / "resume").mkdir()
    optimiser = {"gate_learning_rate": 1e-12, "epochs": 1}
    method = changed(method, experts={"heads": 2}, weights={"kind": "gate"}, optimiser=optimiser)
    inputs = {"reference": model_folder.parent, "gate": gate_folder}
    inputs |= {name: preferences_folder / name for name in ("preferences", "reference_log_probs")}
    start = build(method, model_folder, runtime, seed=0, gate=load_file(gate_folder / "gate.safetensors"))
    policies(tmp_path, spec_of(method), runtime=runtime, resume=tmp_path / "resume", **inputs)
    end = Policy.from_pretrained(tmp_path / "model", runtime)
    assert (end.weights.linear.weight - start.weights.linear.weight).abs().max() < 1e-7
    assert (end.heads[0].weight - start.heads[0].weight).abs().max() > 1e-4


def test_initial_weights_of_another_number_are_one_line(model_folder, method, runtime):
    given = [Policy.from_pretrained(model_folder, runtime).expert(0)] * 3
    method = changed(method, experts={"initial": ["mix"]}, weights={"initial": [0.5, 0.5]})
    with pytest.raises(UserError, match=r"^weights.initial: expected 3 weights [^\n]*found \[0.5, 0.5\];[^\n]*$"):
        build(method, model_folder, runtime, seed=0, experts=given)
