"""Pretraining of MoE-DPO's gate on the domain of the training prompts (section 4.2)."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mixdpo.errors import UserError
from mixdpo.method.fit import fit, optimiser_of
from mixdpo.method.language import load_language_model
from mixdpo.method.runtime import Runtime
from mixdpo.method.weights import GateWeights


def gates(out: Path, spec: dict, *, runtime: Runtime, resume: Path, reference: Path, preferences: Path) -> None:
    """Write `gate.safetensors` (weight (K, d), bias (K,)), `curve.csv` and `accuracy.csv` by split.

    Expert k stands for the k-th domain of the experiment, so K is the number of domains.
    """
    prompts = {
        split: labelled_prompts(preferences / f"{split}.parquet", spec["domains"]) for split in ("train", "validation")
    }
    model = load_language_model(reference / "model", runtime)
    gate = GateWeights(model.base_model, len(spec["domains"])).to(runtime.device)
    inputs = {
        split: (
            gate.features(frame["prompt_ids"].tolist()),
            torch.tensor(frame["expert"].to_numpy()).to(runtime.device),
        )
        for split, frame in prompts.items()
    }
    features, labels = inputs["train"]
    rng = np.random.default_rng(spec["seed"])
    batches = [rng.integers(len(labels), size=spec["batch_size"]) for _ in range(spec["steps"])]

    def loss(part: dict):
        log_w, truth = gate(features[part["rows"]]), labels[part["rows"]]
        return F.nll_loss(log_w, truth), {"accuracy": (log_w.argmax(1) == truth).float().mean()}

    how = {"optimiser": optimiser_of(spec), "seed": spec["seed"], "runtime": runtime, "resume": resume}
    curve = fit(gate.linear, len(batches), lambda step: [{"rows": torch.from_numpy(batches[step])}], loss, **how)
    with torch.no_grad():
        accuracy = [
            {"split": s, "prompts": len(y), "accuracy": (gate(x).argmax(1) == y).double().mean().item()}
            for s, (x, y) in inputs.items()
        ]
    pd.DataFrame(accuracy).to_csv(out / "accuracy.csv", index=False)
    curve.to_csv(out / "curve.csv", index=False)
    tensors = {name: tensor.detach().cpu() for name, tensor in gate.linear.state_dict().items()}
    save_file(tensors, out / "gate.safetensors")


def labelled_prompts(preferences: Path, domains: list[str]) -> pd.DataFrame:
    """Every prompt once: prompt_ids and expert, which is the number of its domain."""
    frame = pd.read_parquet(preferences)
    if "domain" not in frame or not frame["domain"].isin(domains).all():
        found = ", ".join(map(str, frame["domain"].unique())) if "domain" in frame else "no such column"
        raise UserError(
            f"{preferences}: expected a column domain with {', '.join(domains)}, which the gate learns, found {found}; "
            "label the prompts or set weights.start to uniform"
        )
    frame = frame.drop_duplicates("prompt_id")
    return frame[["prompt_ids"]].assign(expert=frame["domain"].map({d: k for k, d in enumerate(domains)}))
