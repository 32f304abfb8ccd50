"""Preference optimisation: Algorithm 1 for any number of experts. Baseline DPO is the case of one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.errors import UserError
from mixdpo.method.fit import fit
from mixdpo.method.initial import build
from mixdpo.method.language import load_language_model
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.policy import Policy, with_names
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Gate, Method
from mixdpo.method.triplets import Triplets
from mixdpo.provenance import durable
from mixdpo.stages.card import model_card
from mixdpo.stages.reference_log_probs import log_probs, texts_of

SPLITS = "validation", "test", "support"
"""Splits of preferences beside train that may be there: for choosing settings, for claims, and of users who are unseen
in training."""
Told = Callable[[pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]]


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
    """Write `model/`, `curve.csv` (one row a step), `validation.json` (before and after), `responsibilities.parquet`
    and, where triplets share their expert, `units.parquet`.

    `responsibilities.parquet` has the rows of `PreferenceObjective.evaluate` for the triplets of each split but train,
    named in `split`; `units.parquet` those of `PreferenceObjective.units`. `trained` are the policies that the method's
    `experts.initial` names; `observe` gets every row of the curve. `spec` is a method and a seed.
    """
    method, seed = Method.of({key: value for key, value in spec.items() if key != "seed"}), spec["seed"]
    tokenizer, given = AutoTokenizer.from_pretrained(reference / "model"), [preferences, reference_log_probs]
    names = user_names(tokenizer, preferences) if method.user_in_prompt else {}
    how = {"tell": told(names, load_language_model(reference / "model", runtime), runtime)} if names else {}
    chosen = {"styles": method.styles, "pairs": method.pairs}
    train, data = triplets_of(*given, "train", **chosen, **how), {}
    for split in SPLITS:
        if (preferences / f"{split}.parquet").exists():
            data[split] = triplets_of(*given, split, **(chosen if split == "validation" else {}), **how)
    experts = [expert for name in method.experts.initial for expert in trained_experts(trained, name, runtime)]
    by_user = isinstance(method.weights, Gate) and method.weights.sees == "user"
    users = sorted({user for _, user in train.contexts}) if by_user else []
    start = {"gate": load_file(gate / "gate.safetensors") if gate else None, "experts": experts, "users": users}
    optimiser = method.optimiser
    batches = train.minibatches(epochs=optimiser.epochs, batch_size=optimiser.batch_size, seed=seed)

    def fitted(restart: int, until: int) -> Fitted:
        """The policy trained from the noise of a restart, for so many of the steps."""
        drawn, folder = seed + 1_000_003 * restart, resume / f"restart{restart}"
        folder.mkdir(exist_ok=True)
        policy = build(method, reference / "model", runtime, seed=drawn, **start)
        policy.names, policy.beta = names, method.beta
        objective = PreferenceObjective(policy, method, runtime)
        objective.prepare(train, batches)
        before, _ = objective.evaluate(data["validation"])
        rate = {True: optimiser.gate_learning_rate, False: optimiser.learning_rate}
        how = {"optimiser": optimiser, "seed": drawn, "runtime": runtime, "resume": folder, "observe": observe}
        how |= {"learning_rates": lambda name: rate[".weights." in name], "after_step": objective.after_step}
        curve = fit(objective, len(batches), objective.parts, objective.loss, until=until, **how)
        objective.keep_posteriors()
        after, _ = objective.evaluate(data["validation"])
        return Fitted(objective, curve, before, after)

    chosen = resume / "chosen.json"
    if method.restarts > 1 and not chosen.exists():
        found = [fitted(restart, -(-len(batches) // 4)).after["nll"] for restart in range(method.restarts)]
        durable.write(chosen, lambda path: path.write_text(json.dumps(found.index(min(found)))))
    best = fitted(json.loads(chosen.read_text()) if method.restarts > 1 else 0, len(batches))
    write_policy(out, spec, best, data, tokenizer, train)


@dataclass(frozen=True)
class Fitted:
    """A trained objective, its curve, and its figures on the validation triplets before and after."""

    objective: PreferenceObjective
    curve: pd.DataFrame
    before: dict[str, float]
    after: dict[str, float]


def write_policy(
    out: Path, spec: dict, best: Fitted, data: dict[str, Triplets], tokenizer: PreTrainedTokenizerBase, train: Triplets
) -> None:
    """Write the files that `policies` names."""
    best.curve.to_csv(out / "curve.csv", index=False)
    rows = [best.objective.evaluate(triplets)[1].assign(split=split) for split, triplets in data.items()]
    pd.concat(rows, ignore_index=True).to_parquet(out / "responsibilities.parquet", index=False)
    if best.objective.units is not None:
        best.objective.unit_table().to_parquet(out / "units.parquet", index=False)
    result = {"triplets": len(data["validation"].chosen), "before": best.before, "after": best.after}
    (out / "validation.json").write_text(json.dumps(result, indent=2))
    policy = best.objective.policy
    policy.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    (out / "model" / "README.md").write_text(model_card(spec, policy.experts, train.labels, result))


def user_names(tokenizer: PreTrainedTokenizerBase, preferences: Path) -> dict[str, list[int]]:
    """User → token ids with which the prompts of each user in training begin, the name and a line break; "" → those
    with which a text begins anyway."""
    users = sorted(pd.read_parquet(preferences / "train.parquet", columns=["user"])["user"].unique())
    return {"": tokenizer("")["input_ids"]} | {user: tokenizer(f"{user}\n")["input_ids"] for user in users}


def told(names: dict[str, list[int]], model: PreTrainedModel, runtime: Runtime) -> Told:
    """What makes preferences with their log-probabilities those of prompts that begin with the user's name."""

    def tell(frame: pd.DataFrame, known: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        prompts = with_names(frame["prompt_ids"], frame["user"], names)
        sides = {s: log_probs(model, texts_of(prompts, frame[f"{s}_ids"]), runtime) for s in ("chosen", "rejected")}
        return frame.assign(prompt_ids=prompts), known.assign(**sides)

    return tell


def triplets_of(
    preferences: Path,
    reference_log_probs: Path,
    split: str,
    styles: Sequence[str] | None = None,
    pairs: str = "all",
    tell: Told = lambda *tables: tables,
) -> Triplets:
    """The triplets of one split, with their log-probabilities under the reference."""
    tables = (pd.read_parquet(folder / f"{split}.parquet") for folder in (preferences, reference_log_probs))
    return Triplets(*tell(*tables), styles, pairs)


def trained_experts(trained: dict[str, Path], name: str, runtime: Runtime) -> list[nn.Module]:
    """The language models that `METHOD` or `METHOD/K` names: all experts of a trained policy, or one."""
    method, _, k = name.partition("/")
    policy = Policy.from_pretrained(trained[method] / "model", runtime)
    if k and int(k) >= policy.experts:
        raise UserError(
            f"experts.initial: expected an expert of {method} from 0 to {policy.experts - 1}, found {name}; correct it"
        )
    return [policy.expert(i) for i in ([int(k)] if k else range(policy.experts))]
