"""Golden trajectories: the curves of DPO, Mix-DPO and MoE-DPO on a small random model, and the environment they ran in.

`python tests/trajectories.py` writes tests/trajectories.json anew: only where a change is meant to alter the numbers.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

from mixdpo.method.fit import fit
from mixdpo.method.initial import build
from mixdpo.method.language import load_language_model
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Experts, Gate, Method, Optimiser, Weights
from mixdpo.method.triplets import Triplets
from mixdpo.stages.reference_log_probs import log_probs, texts_of

FILE = Path(__file__).with_suffix(".json")
STEPS = Optimiser(epochs=3, batch_size=4, learning_rate=1e-3, gate_learning_rate=1e-2)
METHODS = {
    "DPO": Method(Experts(models=1), optimiser=STEPS),
    "Mix-DPO, Case 1": Method(Experts(heads=3), optimiser=STEPS),
    "Mix-DPO, Case 1, fixed weights": Method(Experts(heads=3), Weights(learn=False), optimiser=STEPS),
    "Mix-DPO, Case 2": Method(Experts(models=3), optimiser=STEPS),
    "MoE-DPO, Case 1": Method(Experts(heads=3), Gate(), optimiser=STEPS),
    "MoE-DPO, Case 1, frozen encoder": Method(Experts(heads=3, encoder="frozen"), Gate(), optimiser=STEPS),
    "MoE-DPO, Case 2": Method(Experts(models=3), Gate(), optimiser=STEPS),
}


def random_model(folder: Path) -> Path:
    """A GPT-2 of two layers, d 32, V 303, with random weights."""
    torch.manual_seed(0)
    shape = {"vocab_size": 303, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=302, eos_token_id=302)).save_pretrained(folder)
    return folder


def random_triplets(model: Path, runtime: Runtime) -> Triplets:
    """12 prompts of random tokens, two completions each, which three styles order at random; some styles are undecided."""
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        prompt, *pair = (rng.integers(0, 302, rng.integers(*size)).tolist() for size in ((2, 8), (3, 20), (3, 20)))
        for style in ("sentiment", "informativeness", "grammar")[: 3 - i % 2]:
            rows.append((prompt, *(pair if rng.random() < 0.5 else pair[::-1]), style))
    frame = pd.DataFrame(rows, columns=["prompt_ids", "chosen_ids", "rejected_ids", "style"])
    reference = load_language_model(model, runtime)
    known = {
        side: log_probs(reference, texts_of(frame["prompt_ids"], frame[f"{side}_ids"]), runtime)
        for side in ("chosen", "rejected")
    }
    return Triplets(frame, pd.DataFrame(known))


def objective_of(
    method: Method, model: Path, triplets: Triplets, runtime: Runtime, fixed: bool = False
) -> PreferenceObjective:
    """Prepared for STEPS; `fixed` as in `PreferenceObjective.prepare`."""
    objective = PreferenceObjective(build(method, model, runtime, seed=0), method, runtime)
    batches = triplets.minibatches(epochs=STEPS.epochs, batch_size=STEPS.batch_size, seed=0)
    objective.prepare(triplets, batches, fixed)
    return objective


def train(objective: PreferenceObjective, resume: Path, runtime: Runtime) -> pd.DataFrame:
    resume.mkdir()
    how = {"optimiser": STEPS, "seed": 0, "runtime": runtime, "resume": resume, "after_step": objective.after_step}
    rates = {True: STEPS.gate_learning_rate, False: STEPS.learning_rate}
    how |= {"learning_rates": lambda name: rates[".weights." in name]}
    return fit(objective, len(objective.batches), objective.parts, objective.loss, **how)


def curve(
    method: Method, model: Path, triplets: Triplets, resume: Path, runtime: Runtime, fixed: bool = False
) -> pd.DataFrame:
    return train(objective_of(method, model, triplets, runtime, fixed), resume, runtime)


def curves() -> dict[str, pd.DataFrame]:
    """The curve of every method, in fp32 on one thread of a processor."""
    runtime = Runtime.choose("cpu", "fp32", 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(folder / "model")
        triplets = random_triplets(model, runtime)
        return {name: curve(method, model, triplets, folder / name, runtime) for name, method in METHODS.items()}


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


if __name__ == "__main__":
    found = {name: curve.to_dict("list") for name, curve in curves().items()}
    FILE.write_text(json.dumps({"environment": environment(), "curves": found}, indent=1) + "\n")
    sys.exit(f"wrote {FILE}")
