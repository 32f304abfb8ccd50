"""Preference optimisation: Algorithm 1 for any number of experts. Baseline DPO is the case of one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from mixdpo.errors import UserError
from mixdpo.method.fit import fit, training_batches
from mixdpo.method.initial import build
from mixdpo.method.objective import PreferenceObjective, Triplets
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Gate, Method
from mixdpo.stages.card import model_card


def policies(
    out: Path,
    spec: dict,
    *,
    runtime: Runtime,
    resume: Path,
    reference: Path,
    preferences: Path,
    reference_log_probs: Path,
    gate: Path | None = None,
    observe: Callable[[dict[str, float]], None] = lambda row: None,
    **trained: Path,
) -> None:
    """Write `model/`, `curve.csv` (one row a step), `validation.json` (before and after) and
    `responsibilities.parquet`.

    `responsibilities.parquet` has one row per validation triplet after training: its style, domain and user, q0 to
    qK−1, and margin0 to marginK−1, β (log_ratio⁺ − log_ratio⁻) of each expert. `trained` are the policies that
    the method's `experts.initial` names; `observe` gets every row of the curve. `spec` is a method and a seed.
    """
    method, seed = Method.of({key: value for key, value in spec.items() if key != "seed"}), spec["seed"]
    train, validation = (
        triplets_of(preferences, reference_log_probs, split, method.styles) for split in ("train", "validation")
    )
    experts = [expert for name in method.experts.initial for expert in trained_experts(trained, name, runtime)]
    by_user = isinstance(method.weights, Gate) and method.weights.sees == "user"
    users = sorted({user for _, user in train.contexts}) if by_user else []
    pretrained = load_file(gate / "gate.safetensors") if gate else None
    built = build(method, reference / "model", runtime, seed=seed, gate=pretrained, experts=experts, users=users)
    objective, optimiser = PreferenceObjective(built, method, runtime), method.optimiser
    how = {"epochs": optimiser.epochs, "batch_size": optimiser.batch_size, "seed": seed}
    batches = [train.rows(groups) for groups in training_batches(train.group_lengths, **how)]
    objective.prepare(train, batches)
    before, _ = objective.evaluate(validation)
    curve = fit(
        objective,
        len(batches),
        objective.parts,
        objective.loss,
        optimiser=optimiser,
        seed=seed,
        runtime=runtime,
        resume=resume,
        learning_rates=lambda n: optimiser.gate_learning_rate if ".weights." in n else optimiser.learning_rate,
        after_step=objective.after_step,
        observe=observe,
    )
    after, q = objective.evaluate(validation)
    curve.to_csv(out / "curve.csv", index=False)
    q.to_parquet(out / "responsibilities.parquet", index=False)
    result = {"triplets": len(validation.chosen), "before": before, "after": after}
    (out / "validation.json").write_text(json.dumps(result, indent=2))
    objective.policy.save_pretrained(out / "model")
    AutoTokenizer.from_pretrained(reference / "model").save_pretrained(out / "model")
    (out / "model" / "README.md").write_text(model_card(spec, objective.policy.experts, train.labels, result))


def triplets_of(preferences: Path, reference_log_probs: Path, split: str, styles: Sequence[str] | None) -> Triplets:
    """The triplets of one split, with their log-probabilities under the reference."""
    return Triplets(
        *(pd.read_parquet(folder / f"{split}.parquet") for folder in (preferences, reference_log_probs)), styles
    )


def trained_experts(trained: dict[str, Path], name: str, runtime: Runtime) -> list[nn.Module]:
    """The language models that `METHOD` or `METHOD/K` names: all experts of a trained policy, or one."""
    method, _, k = name.partition("/")
    policy = Policy.from_pretrained(trained[method] / "model", runtime)
    if k and int(k) >= policy.experts:
        raise UserError(
            f"experts.initial: expected an expert of {method} from 0 to {policy.experts - 1}, found {name}; correct it"
        )
    return [policy.expert(i) for i in ([int(k)] if k else range(policy.experts))]
