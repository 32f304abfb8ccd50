"""The loop: schedules, batches, the first loss of DPO, and a resume that ends with the same bytes."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from mixdpo import training
from mixdpo.errors import UserError
from mixdpo.language import load_language_model
from mixdpo.policies import PreferenceObjective, Triplets
from mixdpo.reference import log_probs
from mixdpo.training import epoch_batches, fit, learning_rate_factor, training_batches

SPEC = {
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup": 0.1,
    "schedule": "linear",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "seed": 0,
}


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


@pytest.fixture
def triplets(tmp_path, model_folder, runtime):
    rng = np.random.default_rng(0)

    def ids(low, high):
        return [rng.integers(1, 300, rng.integers(low, high)).tolist() for _ in range(24)]

    frame = pd.DataFrame({"prompt_ids": ids(2, 8), "chosen_ids": ids(3, 20), "rejected_ids": ids(3, 20)})
    frame.to_parquet(tmp_path / "train.parquet")
    model = load_language_model(model_folder, runtime)
    columns = {c: log_probs(model, frame["prompt_ids"], frame[f"{c}_ids"], runtime) for c in ("chosen", "rejected")}
    pd.DataFrame(columns).to_parquet(tmp_path / "reference.parquet")
    return Triplets(tmp_path / "train.parquet", tmp_path / "reference.parquet")


def train(folder, model_folder, triplets, runtime, stop_at=None):
    model = load_language_model(model_folder, runtime)
    objective = PreferenceObjective(model, 0.1, runtime)
    steps = iter(range(1000))

    def loss(rows):
        if next(steps) == stop_at:
            raise KeyboardInterrupt
        return objective.loss(triplets, rows)

    folder.mkdir(exist_ok=True)
    curve = fit(model, training_batches(triplets.lengths, SPEC), loss, spec=SPEC, runtime=runtime, resume=folder)
    return model.state_dict(), curve


def test_dpo_starts_at_log_2_and_descends(tmp_path, model_folder, triplets, runtime):
    _, curve = train(tmp_path / "a", model_folder, triplets, runtime)
    assert curve["loss"].iloc[0] == pytest.approx(math.log(2), abs=1e-5)
    assert curve["kl"].iloc[0] == pytest.approx(0, abs=1e-4)
    assert curve["loss"].iloc[-6:].mean() < 0.95 * math.log(2)
    assert curve["margin"].iloc[-1] > 0.1
    assert {"loss", "accuracy", "margin", "kl", "gradient_norm"} <= set(curve)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_interrupted_training_ends_with_the_same_bytes(
    tmp_path, model_folder, triplets, runtime, schedule, monkeypatch
):
    monkeypatch.setattr(training, "SAVING_SHARE", 1e9)  # so that the state of the very last step is there
    monkeypatch.setitem(SPEC, "schedule", schedule)
    whole, curve = train(tmp_path / "a", model_folder, triplets, runtime)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", model_folder, triplets, runtime, stop_at=7)
    assert torch.load(tmp_path / "b/training.pt")["step"] == 7
    resumed, curve_again = train(tmp_path / "b", model_folder, triplets, runtime)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    pd.testing.assert_frame_equal(curve, curve_again)


def test_infinite_loss_is_one_line(tmp_path, runtime):
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"finite loss.*lower learning_rate"):
        fit(
            layer,
            [1] * 8,
            lambda rows: (layer.weight.sum() * torch.inf, {}),
            spec=SPEC,
            runtime=runtime,
            resume=tmp_path,
        )
