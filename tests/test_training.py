"""The loop: schedules, batches, the first loss of DPO, and a resume that ends with the same bytes."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
import trajectories
from conftest import changed, steps_of

from mixdpo.errors import UserError
from mixdpo.method import fit as training
from mixdpo.method.capture import compiled, layers_of
from mixdpo.method.fit import Replayed, Step, adamw_of, buckets, epoch_batches, fit, learning_rate_factor
from mixdpo.method.initial import build
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.settings import Optimiser


def test_an_epoch_sees_every_row_once_and_neighbours_in_length_together():
    lengths = np.random.default_rng(0).integers(5, 60, 1000)
    batches = epoch_batches(lengths, 16, seed=1, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    padded = sum(lengths[b].max() * len(b) for b in batches)
    assert padded < 1.15 * lengths.sum()
    assert any((a != b).any() for a, b in zip(batches, epoch_batches(lengths, 16, seed=1, epoch=1)) if len(a) == len(b))


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 1 / 90), ("cosine", 0.0003)])
def test_learning_rate(schedule, last):
    factors = [learning_rate_factor(step, 100, 0.1, schedule) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == pytest.approx(1.0) and factors[-1] == pytest.approx(last, abs=1e-3)


def train(folder, model_folder, triplets, runtime, method, stop_at=None):
    """The state and curve of a policy trained on the triplets, as the policies stage trains it; `stop_at` kills it."""
    objective = PreferenceObjective(build(method, model_folder, runtime, seed=0), method, runtime)
    batches = steps_of(method, triplets)
    objective.prepare(triplets, batches)

    def parts(step):
        if step == stop_at:
            raise KeyboardInterrupt
        return objective.parts(step)

    folder.mkdir(exist_ok=True)
    how = {"optimiser": method.optimiser, "seed": 0, "runtime": runtime, "resume": folder}
    curve = fit(objective, len(batches), parts, objective.loss, **how, after_step=objective.after_step)
    return objective.state_dict(), curve


def test_dpo_starts_at_log_2_and_descends(tmp_path, model_folder, triplets, method, runtime):
    """On one style alone: two styles may order a pair both ways."""
    one = copy.copy(triplets)
    style = triplets.labels["style"].to_numpy()
    one.groups = [g[style[g] == "grammar"] for g in triplets.groups]
    method = changed(method, experts={"models": 1}, optimiser={"epochs": 8})
    _, curve = train(tmp_path / "a", model_folder, one, runtime, method)
    assert curve["loss"].iloc[0] == pytest.approx(math.log(2), abs=1e-5)
    assert curve["kl"].iloc[0] == pytest.approx(0, abs=1e-4)
    assert curve["loss"].iloc[-6:].mean() < 0.95 * math.log(2)
    assert curve["margin"].iloc[-1] > 0.1
    assert {"loss", "nll", "elbo", "accuracy", "margin", "kl", "w0", "q0 grammar", "gradient_norm"} <= set(curve)


@pytest.mark.parametrize(
    "changes",
    [
        {"experts": {"models": 1}, "optimiser": {"schedule": "constant"}},
        {"experts": {"heads": 3}, "reward_update": "partition", "optimiser": {"schedule": "linear"}},
        {"experts": {"models": 2}, "reward_update": "partition", "optimiser": {"schedule": "cosine"}},
        {"experts": {"heads": 2, "models": 1}, "optimiser": {"schedule": "cosine"}},
        {"experts": {"heads": 3, "encoder": "frozen"}, "optimiser": {"schedule": "linear"}},
    ],
    ids=str,
)
def test_interrupted_training_ends_with_the_same_bytes(
    tmp_path, model_folder, triplets, method, runtime, changes, monkeypatch
):
    """Optimiser, global weights and the rewards that `partition` keeps from one epoch to the next are all restored."""
    monkeypatch.setattr(training, "SAVING_SHARE", 1e9)  # so that the state of the very last step is there
    method = changed(method, **changes)
    whole, curve = train(tmp_path / "a", model_folder, triplets, runtime, method)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", model_folder, triplets, runtime, method, stop_at=4)
    assert torch.load(tmp_path / "b/training.pt")["step"] == 4
    resumed, curve_again = train(tmp_path / "b", model_folder, triplets, runtime, method)
    assert len(curve) == 9 and whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert ("rewards" in whole) == (method.reward_update == "partition")
    pd.testing.assert_frame_equal(curve, curve_again)


def test_infinite_loss_is_one_line(tmp_path, runtime):
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"finite loss.*lower learning_rate"):
        fit(
            layer,
            8,
            lambda step: [{}],
            lambda part: (layer.weight.sum() * torch.inf, {}),
            optimiser=Optimiser(),
            seed=0,
            runtime=runtime,
            resume=tmp_path,
        )


def test_buckets_are_few_and_have_room():
    shapes = [(4, 17, 60, 9), (8, 30, 20, 3), (2, 33, 10, 1), (4, 48, 5, 2)]
    assert buckets(shapes) == [(8, 32, 60, 9), (8, 32, 60, 9), (4, 48, 10, 2), (4, 48, 10, 2)]
    assert buckets([(1, 3, 1), (1, 20, 1)]) == [(1, 16, 1), (1, 20, 1)], "a model may have 20 positions"


@pytest.mark.parametrize("name", trajectories.METHODS)
def test_parts_of_fixed_shapes_take_the_same_steps(name, tmp_path, runtime):
    """What a CUDA graph is replayed on: filler among texts, places and triplets changes no figure of the curve."""
    method, model = trajectories.METHODS[name], trajectories.random_model(tmp_path / "model")
    triplets, curves = trajectories.random_triplets(model, runtime), []
    for fixed in (False, True):
        curves.append(trajectories.curve(method, model, triplets, tmp_path / str(fixed), runtime, fixed))
    pd.testing.assert_frame_equal(*curves, rtol=1e-3, atol=1e-5)


def test_replayed_steps_read_the_parts_where_they_were_first(tmp_path, runtime):
    """Of each kind of parts the tensors stay in place, and every step of that kind is copied there."""
    method, model = trajectories.METHODS["MoE-DPO, Case 1"], trajectories.random_model(tmp_path / "model")
    triplets, figures = trajectories.random_triplets(model, runtime), []
    for replay in (False, True):
        objective = trajectories.objective_of(method, model, triplets, runtime, fixed=True)
        adamw = adamw_of(objective, method.optimiser, lambda name: 1e-3)
        step = Step(objective, adamw, objective.loss, 1.0, runtime, objective.after_step)
        run = Replayed(step) if replay else step
        figures.append(torch.stack([run(objective.parts(i)) for i in range(len(objective.batches))]))
    assert len(run.kinds) == len({tuple(map(tuple, shapes)) for shapes in objective.shapes}) < len(objective.batches)
    torch.testing.assert_close(*figures, rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_layers_take_the_same_steps(tmp_path, runtime):
    """As on CUDA, where they are compiled for long trainings; afterwards the layers are as before."""
    method, model = trajectories.METHODS["Mix-DPO, Case 1"], trajectories.random_model(tmp_path / "model")
    triplets = trajectories.random_triplets(model, runtime)
    plain = trajectories.curve(method, model, triplets, tmp_path / "plain", runtime)
    objective = trajectories.objective_of(method, model, triplets, runtime)
    before = objective.state_dict()
    assert len(layers_of(objective)) == 2
    with compiled(objective, "cpu"):
        assert all(layer._compiled_call_impl for layer in layers_of(objective))
        curve = trajectories.train(objective, tmp_path / "compiled", runtime)
    assert not any(layer._compiled_call_impl for layer in layers_of(objective))
    assert objective.state_dict().keys() == before.keys()
    pd.testing.assert_frame_equal(plain, curve, rtol=1e-3, atol=1e-5)
