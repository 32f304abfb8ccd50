"""Pretraining of the gate: it learns a label that its features separate, and says how well."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mixdpo.errors import UserError
from mixdpo.method.initial import pretrained_gate
from mixdpo.method.language import load_language_model
from mixdpo.stages.gates import gates

SPEC = {
    "domains": ["movie", "book"],
    "steps": 150,
    "batch_size": 16,
    "learning_rate": 3e-2,
    "warmup": 0.0,
    "schedule": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "seed": 10,
}


def write(folder, wrong: int = 0):
    """Prompts of two tokens; the first, 5 or 60, is the domain. Validation holds `wrong` prompts of the other label.

    Every prompt has three rows, as three styles give it.
    """
    folder.mkdir(exist_ok=True)
    for split, first, count in (("train", 0, 40), ("validation", 100, 8)):
        rows = []
        for i in range(first, first + count):
            domain = i % 2
            label = domain if split == "train" or i - first >= wrong else 1 - domain
            rows += [(i, [(5, 60)[domain], 1 + i], ("movie", "book")[label])] * 3
        pd.DataFrame(rows, columns=["prompt_id", "prompt_ids", "domain"]).to_parquet(folder / f"{split}.parquet")


def run(tmp_path, model_folder, runtime, spec=SPEC):
    inputs = {"reference": model_folder.parent, "preferences": tmp_path / "preferences"}
    (tmp_path / "resume").mkdir(exist_ok=True)
    gates(tmp_path, spec, runtime=runtime, resume=tmp_path / "resume", **inputs)


def test_a_gate_learns_separable_domains(tmp_path, model_folder, runtime):
    """All 40 training prompts are right; 3 of the 8 validation labels are false, so 5/8 is all it may reach."""
    write(tmp_path / "preferences", wrong=3)
    run(tmp_path, model_folder, runtime)
    table = pd.read_csv(tmp_path / "accuracy.csv").set_index("split")
    assert table["prompts"].to_dict() == {"train": 40, "validation": 8}
    assert table["accuracy"].to_dict() == {"train": 1.0, "validation": 5 / 8}
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert len(curve) == 150 and curve["loss"].iloc[0] == pytest.approx(0.6931, abs=1e-4)
    assert curve["loss"].iloc[-1] < 0.2


def test_the_written_gate_weights_each_domain_by_its_own_expert(tmp_path, model_folder, runtime):
    """Expert k stands for the k-th domain of the configuration, whatever its place in the data."""
    write(tmp_path / "preferences")
    for domains in (["movie", "book"], ["book", "movie"]):
        run(tmp_path, model_folder, runtime, SPEC | {"domains": domains})
        (tmp_path / "resume/training.pt").unlink(missing_ok=True)
        gate = pretrained_gate(load_file(tmp_path / "gate.safetensors"), load_language_model(model_folder, runtime), 2)
        w = gate(gate.features([[5, 250], [60, 250]])).exp()
        assert w.sum(1).tolist() == pytest.approx([1, 1])
        assert w[0, domains.index("movie")] > 0.7 and w[1, domains.index("book")] > 0.7


def test_only_the_linear_layer_learns(tmp_path, model_folder, runtime):
    """The gate sees the mean of the reference encoder's states, computed here without its code."""
    write(tmp_path / "preferences")
    run(tmp_path, model_folder, runtime)
    model = load_language_model(model_folder, runtime)
    gate = pretrained_gate(load_file(tmp_path / "gate.safetensors"), model, 2)
    prompts = [[5, 9], [7], [60, 3, 4]]
    with torch.no_grad():
        expected = [model.base_model(torch.tensor([p])).last_hidden_state[0].mean(0) for p in prompts]
    torch.testing.assert_close(gate.features(prompts), torch.stack(expected))
    assert [name for name, p in gate.named_parameters() if p.requires_grad] == ["linear.weight", "linear.bias"]


@pytest.mark.parametrize(
    ("change", "found"), [(lambda frame: frame.drop(columns="domain"), "no such column"), (None, "movie, book")]
)
def test_missing_domains_are_one_line(change, found, tmp_path, model_folder, runtime):
    write(tmp_path / "preferences")
    file, spec = tmp_path / "preferences/train.parquet", SPEC
    if change:
        change(pd.read_parquet(file)).to_parquet(file)
    else:
        spec = SPEC | {"domains": ["movie", "music"]}
    with pytest.raises(UserError, match=rf"expected a column domain [^\n]*, found {found};[^\n]*$"):
        run(tmp_path, model_folder, runtime, spec)
