"""Preferences of your own, from a file: a trained policy, a table of its experts, and text from it."""

import contextlib
import csv
import importlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mixdpo.data.statistics import mean_and_se
from mixdpo.errors import Corrupt, UserError
from mixdpo.fields import merged
from mixdpo.method.language import load_language_model
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Gate, Method, Optimiser
from mixdpo.provenance.artifact import publish, refuse_foreign, sha256, verify
from mixdpo.provenance.fingerprint import fingerprint
from mixdpo.stages.assets.base import base
from mixdpo.stages.policies import policies
from mixdpo.stages.preferences import validation_prompts
from mixdpo.stages.reference_log_probs import reference_log_probs

TEXTS = ["prompt", "chosen", "rejected"]
LABELS = ["style", "domain", "user"]
ARCHITECTURES = ["heads", "models", "adapters"]
METHODS = ["dpo", "mix", "moe"]
CAPTION = """**Experts on n validation triplets** (mean ± SE; q: responsibility of an expert for a triplet; accuracy: share of
triplets whose chosen completion it raises more over the reference than the rejected one)"""
USER_GATE = {
    "weights": {"perturbation": 1.0},
    "phases": [{"until": 0.6, "gate_kl_uniform": 0.3}, {"until": 1.0}],
    "optimiser": {"gate_learning_rate": 3.0e-3},
}
"""Of a gate that sees the user, unless told otherwise: users differ from the start; no expert takes them all early."""
ADAPTERS = {"experts": {"perturbation": 0.02}}
"""Of adapters, unless told otherwise: their noise is on every matrix."""
OPTIMISER = Optimiser.__dataclass_fields__.keys()
"""Settings of the optimiser, which a call may name without it: epochs, batch_size, …"""
WRITTEN = "base", "preferences", "reference", "policy"
"""Folders that `train` makes in its `out`, and replaces whole."""


def train(
    preferences: Path | str,
    model: Path | str,
    out: Path | str,
    *,
    method: str = "moe",
    experts: int | None = None,
    architecture: str | None = None,
    validation_share: float = 0.1,
    max_tokens: int | None = None,
    seed: int = 0,
    tensorboard: Path | str | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    **settings: Any,
) -> Path:
    """Train a policy on the triplets of a file, print the table of its experts, and return the policy's folder.

    `model` is the reference policy: a folder of transformers, or NAME@COMMIT of the hub. `method` is dpo, mix or moe,
    `architecture` heads, models or adapters, and `settings` are any of `Method`; see `method_of`. Prompts with a
    completion of more than `max_tokens`, or of the model's positions, are dropped and counted.

    `out` gets base/, preferences/, reference/, policy/, experts.csv and experts.md, each published whole: the same call
    continues after a kill, ends with the same bytes, and does nothing when all is there. Whatever else is there stays:
    a file in one of these folders that `train` did not write is refused before any work.
    """
    if not str(out):
        raise UserError("out: expected a folder, found an empty name; name one, or . for this folder")
    file, out = Path(preferences), Path(out)
    chosen = method_of(method, experts, architecture, list(read_triplets(file)), settings)
    spec = {key: value for key, value in chosen.as_dict().items() if key != "top_s"} | {"seed": seed}
    if not 0 < validation_share < 1:
        raise UserError(f"validation_share: expected a number between 0 and 1, found {validation_share}; correct it")
    if seed < 0:
        raise UserError(f"seed: expected a number ≥ 0, found {seed}; correct it")
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens: expected a number ≥ 1, found {max_tokens}; raise it")
    if Path(model).is_dir() and out.resolve().is_relative_to(Path(model).resolve()):
        raise UserError(f"out: expected a folder outside the model's {model}, found {out}; name another")
    for key, path in {"model": model, "preferences": file, "tensorboard": tensorboard}.items():
        for folder in (out / name for name in WRITTEN):
            local = path is not None and (key == "tensorboard" or Path(path).exists())
            if local and Path(path).resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{key}: expected a path outside {folder}, which train writes, found {path}; move it")
    source, relative = model_source(str(model), out), from_folder(out, file)
    runtime = Runtime.choose(device, precision, threads or os.cpu_count())
    out.mkdir(parents=True, exist_ok=True)
    # Locks and resume state lie below the working folder: in `out` they are found again from everywhere.
    with events(tensorboard) as observe, contextlib.chdir(out), corrupt_in(out):
        start, triplets, known, policy = (Path(name, "manifest.json") for name in WRITTEN)
        inputs = {"reference": start, "preferences": triplets}
        division = {"validation_share": validation_share, "max_tokens": max_tokens, "seed": seed}
        shown, styles = Path("experts.manifest.json"), {"styles": spec["styles"]}
        for manifest in start, triplets, known, policy:
            refuse_foreign(manifest)
        refuse_foreign(shown, ["experts.csv", "experts.md"])
        work = [
            make(start, base, source, runtime, {}),
            make(triplets, own_preferences, division, runtime, {"reference": start, "file": relative}),
            make(known, reference_log_probs, {}, runtime, inputs),
            make(policy, policies, spec, runtime, inputs | {"reference_log_probs": known}, observe=observe),
            make(shown, expert_tables, styles, runtime, {"policy": policy, "preferences": triplets}),
        ]
        counts, table = json.loads(Path("preferences/counts.json").read_text()), Path("experts.md").read_text()
    folder = out / "policy/model"
    print(
        f"{file}: {counts['train']} triplets for training, {counts['validation']} for validation; dropped "
        f"{counts['equal']} with chosen = rejected, {counts['long']} of more than {counts['max_tokens']} tokens"
    )
    if not any(work):
        print(f"{out}: everything is there, nothing was done; to train again delete {out}/policy")
    print(f"\n{table}\npolicy: {folder}\nmodel card: {folder}/README.md\ntable: {out}/experts.csv, {out}/experts.md")
    return folder


@contextlib.contextmanager
def corrupt_in(out: Path) -> Iterator[None]:
    """Say of what is corrupt which folder it is in."""
    try:
        yield
    except Corrupt as error:
        raise Corrupt(f"in {out}: {error}") from None


def make(manifest: Path, stage: Callable, spec: dict, runtime: Runtime, inputs: dict[str, Path], **given) -> bool:
    """Publish what `stage` writes, unless the manifest says that just this is there; tell whether it was not."""
    work = {"stage": stage.__name__, "spec": spec, "code": fingerprint(stage.__module__)}
    work |= {"inputs": {path.as_posix(): sha256(path) for path in inputs.values()}}
    found = verify(manifest) if manifest.exists() else None
    if found and work == {key: found[key] for key in work}:
        return False
    if found and stage is policies:
        other = [key for key in spec if found["spec"].get(key) != spec[key]]
        settings = ", ".join(f"{key} {found['spec'].get(key)}, now {spec[key]}" for key in other)
        settings = settings or "code, model or preferences"
        print(f"{Path.cwd().name}/{manifest.parent}: made with other {settings}; it stays until the new one is whole")
    folders = {name: p.parent if p.name == "manifest.json" else p for name, p in inputs.items()}
    with publish(manifest, **work | {"inputs": inputs}, runtime=asdict(runtime)) as (staging, resume):
        stage(staging, spec, runtime=runtime, resume=resume, **folders, **given)
    return True


def method_of(
    method: str, experts: int | None, architecture: str | None, columns: list[str], settings: Mapping[str, Any]
) -> Method:
    """The method that a call names: `settings` over what it has by itself, keys dotted or nested as in a configuration.

    dpo is one model, mix K = 4 heads under global weights, moe the same under a gate that starts at 1/K and, with
    a column user, sees the user. Raises `UserError`.
    """
    for name, value, known in ("method", method, METHODS), ("architecture", architecture, [None, *ARCHITECTURES]):
        if value not in known:
            expected = ", ".join(filter(None, known))
            raise UserError(f"{name}: expected one of {expected}, found {value}; choose one of those")
    if method == "dpo" and experts not in (None, 1):
        raise UserError(f"experts: expected 1 with the method dpo, found {experts}; choose mix or moe")
    kind = architecture or ("models" if method == "dpo" else "heads")
    whole = {"experts": {kind: 1 if method == "dpo" else 4 if experts is None else experts}}
    if method == "moe":
        whole["weights"] = {"kind": "gate", "sees": "user" if "user" in columns else "prompt"}
    given = reduce(merged, (nested(key, value) for key, value in settings.items()), {})
    whole = merged(whole, given)
    weights = whole.get("weights")
    if isinstance(weights, dict) and weights.get("sees") == "user":
        whole = merged(merged(whole, USER_GATE), given)
    if kind == "adapters":
        whole = merged(merged(whole, ADAPTERS), given)
    try:
        found = Method.of(whole, method)
    except UserError as error:
        raise UserError(str(error).replace(" in the configuration", "")) from None
    check_method(method, found, columns)
    return found


def nested(key: str, value: object) -> dict[str, Any]:
    """A dotted key and its value as mappings; what belongs to the optimiser may be said without it."""
    *above, last = key.split(".")
    if not above and last in OPTIMISER:
        above = ["optimiser"]
    return reduce(lambda inner, name: {name: inner}, reversed(above), {last: value})


def check_method(name: str, method: Method, columns: list[str]) -> None:
    """Raise `UserError` for what a method can have in the workflow alone, or not with preferences of these columns."""
    unwanted = {
        "experts.initial": (method.experts.initial, "add the method to the workflow"),
        "top_s": (method.top_s, "type generate --top-s"),
    }
    for key, (value, instead) in unwanted.items():
        if value:
            raise UserError(f"{name}.{key}: expected none in this command, found {value}; {instead}")
    gate = method.weights if isinstance(method.weights, Gate) else Gate()
    if gate.start != "uniform":
        raise UserError(f"{name}.weights.start: expected uniform in this command, found {gate.start}; leave it out")
    if gate.sees == "user" and "user" not in columns:
        raise UserError(f"{name}.weights.sees: expected preferences with a column user, found none; set it to prompt")
    if method.styles and "style" not in columns:
        raise UserError(f"{name}.styles: expected preferences with a column style, found none; set it to null")


def model_source(model: str, out: Path) -> dict:
    """The spec of the base stage, a local path as it is seen from `out`."""
    if Path(model, "adapter_config.json").is_file():
        raise UserError(
            f"model: expected a whole model, found the PEFT adapter {model}; merge it: {merging(Path(model))}"
        )
    if Path(model).is_dir():
        return {"source": "local", "path": from_folder(out, model).as_posix()}
    if hub := re.fullmatch(r"([^@]+)@([0-9a-f]{40})", model):
        return {"source": "hub", "repository": hub[1], "revision": hub[2]}
    raise UserError(f"model: expected a folder, or NAME@COMMIT of the hub, found no {model}; correct the path")


def merging(adapter: Path) -> str:
    """The line to type that merges a PEFT adapter into its model, in a folder beside it."""
    base = json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path", "MODEL")
    tokenizer, merged = adapter if (adapter / "tokenizer_config.json").is_file() else base, f"{adapter}-merged"
    return (
        'python -c "from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; '
        f"M.from_pretrained('{adapter}').merge_and_unload().save_pretrained('{merged}'); "
        f"T.from_pretrained('{tokenizer}').save_pretrained('{merged}')\", then type --model {merged}"
    )


def from_folder(out: Path, path: Path | str) -> Path:
    """`path` as it is seen from `out`, so that both can move together."""
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(out)))


def read_triplets(file: Path) -> pd.DataFrame:
    """Rows of a parquet, jsonl or csv file: prompt, chosen, rejected, and style, domain, user where it has them.

    `objective` is another name for style. Raises `UserError` for what is not such a file.
    """
    if not file.is_file():
        raise UserError(f"{file}: expected a file of preferences, found none; correct the path")
    readers = {
        ".parquet": pd.read_parquet,
        ".jsonl": lambda path: pd.DataFrame(list(json_lines(path))),
        ".csv": csv_rows,
    }
    if file.suffix not in readers:
        raise UserError(f"{file}: expected a file .parquet, .jsonl or .csv, found {file.name}; convert it")
    try:
        frame = readers[file.suffix](file)
    except UserError:
        raise
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"{file}: expected {file.suffix[1:]}, found: {str(error).splitlines()[0]}; mend it") from error
    if frame.empty:
        raise UserError(f"{file}: expected preferences, found none; give it at least two prompts")
    if {"style", "objective"} <= set(frame):
        raise UserError(f"{file}: expected a column style or objective, found both; delete one of them")
    frame = frame.rename(columns={"objective": "style"})
    if missing := [column for column in TEXTS if column not in frame]:
        raise UserError(
            f"{file}: expected columns {', '.join(TEXTS)}, found {', '.join(map(str, frame))}; "
            f"add {', '.join(missing)} or rename what stands for it"
        )
    for column in TEXTS:
        for row, value in enumerate(frame[column], 1):
            if not isinstance(value, str) or (column == "prompt" and not value):
                found = "an empty one" if value == "" else type(value).__name__
                raise UserError(f"{file}: expected text as {column}, found {found} in row {row}; correct that row")
    labels = [column for column in LABELS if column in frame]
    for column in labels:
        lacking = frame[column].isna() | (frame[column] == "")
        if lacking.any():
            row = int(lacking.argmax()) + 1
            raise UserError(f"{file}: expected a {column} in every row, found none in row {row}; fill or drop it")
    return frame[[*TEXTS, *labels]].astype(dict.fromkeys(labels, str))


def csv_rows(file: Path) -> pd.DataFrame:
    """The rows of a csv file as text, each with as many fields as the header names; empty lines are no rows."""
    csv.field_size_limit(2**31 - 1)  # the default, 131,072 characters, is less than some texts have
    with open(file, encoding="utf-8-sig", newline="") as lines:
        header, *rows = [row for row in csv.reader(lines, strict=True) if row] or [[]]
    if doubled := next((name for name in header if header.count(name) > 1), None):
        raise UserError(f"{file}: expected columns that differ, found {doubled} twice; rename one")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise UserError(
                f"{file}: expected {len(header)} fields in row {number}, as the header names, found {len(row)} "
                f"({','.join(row)[:60]!r}); quote texts that have commas, drop commas at the end"
            )
    return pd.DataFrame(rows, columns=header, dtype=object)


def json_lines(file: Path) -> Iterator[dict]:
    """The objects of a jsonl file, one a line."""
    for number, line in enumerate(file.read_text().split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise UserError(
                    f"{file}: expected a JSON object in line {number}, found {line[:40]!r}; correct that line"
                )
            yield row


def own_preferences(out: Path, spec: dict, *, runtime: Runtime, resume: Path, reference: Path, file: Path) -> None:
    """Write `train.parquet` and `validation.parquet`, split by prompt, in the columns of the preferences stage.

    A completion ends with end-of-text. `counts.json` has the triplets of both, and those dropped: `equal`, chosen =
    rejected, and `long`, prompt with a completion beyond `max_tokens` or the model's positions.
    """
    frame, tokenizer = read_triplets(file), AutoTokenizer.from_pretrained(reference / "model")
    if tokenizer.eos_token_id is None:
        raise UserError("model: expected a tokenizer with an eos token, found none; set eos_token in its files")
    model = load_language_model(reference / "model", runtime)
    check_tokenizer("model", tokenizer, model)
    positions = positions_of(checked(model))
    limit = min(positions, spec["max_tokens"] or np.inf)
    frame["prompt_ids"] = tokenizer(frame["prompt"].tolist())["input_ids"]
    for column in ("chosen", "rejected"):
        ids = tokenizer(frame[column].tolist(), add_special_tokens=False)["input_ids"]
        frame[f"{column}_ids"] = ids
    for column in TEXTS:
        if empty := next((row for row, ids in enumerate(frame[f"{column}_ids"], 1) if not ids), None):
            raise UserError(
                f"{file.name}: expected a {column} with tokens, found none in row {empty}; fill or drop the row"
            )
    for column in ("chosen_ids", "rejected_ids"):
        frame[column] = [[*row, tokenizer.eos_token_id] for row in frame[column]]
    completion = np.maximum(frame["chosen_ids"].str.len(), frame["rejected_ids"].str.len())
    equal, long = frame["chosen"] == frame["rejected"], frame["prompt_ids"].str.len() + completion > limit
    kept = frame[~equal & ~long].reset_index(drop=True)
    kept.insert(0, "prompt_id", pd.factorize(kept["prompt"])[0])
    held_out = validation_prompts(kept["prompt_id"].unique(), kept, spec["validation_share"], spec["seed"])
    held_out = kept["prompt_id"].isin(held_out)
    if held_out.all() or not held_out.any():
        raise UserError(
            f"{file.name}: expected at least two prompts, and two of some user if there are users, found "
            f"{kept['prompt_id'].nunique()} in {len(kept)} triplets, without {equal.sum()} with chosen = rejected and "
            f"{(~equal & long).sum()} of more than {limit:g} tokens; give it more"
        )
    counts = {"equal": int(equal.sum()), "long": int((~equal & long).sum()), "max_tokens": f"{limit:g}"}
    for name, part in ("train", kept[~held_out]), ("validation", kept[held_out]):
        part.to_parquet(out / f"{name}.parquet", index=False)
        counts[name] = len(part)
    (out / "counts.json").write_text(json.dumps(counts))


def check_tokenizer(key: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | Policy) -> None:
    """Raise `UserError` for less than half the tokens of the embedding: for a folder without, one is made up."""
    rows = model.config.get_text_config().vocab_size
    if len(tokenizer) < rows / 2:
        raise UserError(
            f"{key}: expected a tokenizer of about {rows} tokens, the rows of the embedding, found {len(tokenizer)}; "
            "copy the files of the model's tokenizer into its folder"
        )


@torch.no_grad()
def checked(model: PreTrainedModel) -> PreTrainedModel:
    """`model`, if its logits are its output layer of its last states: this is all that heads and losses know of it."""
    tokens = torch.arange(1, 5, device=model.device)[None]
    expected = model.get_output_embeddings()(model.base_model(input_ids=tokens).last_hidden_state)
    found = model(input_ids=tokens).logits
    if found.shape != expected.shape or not found.allclose(expected, rtol=1e-3, atol=1e-3):
        kind = type(model).__name__
        raise UserError(
            f"model: expected logits that are a layer of the last states, found others of {kind}; take another"
        )
    return model


def positions_of(model: PreTrainedModel | Policy) -> float:
    """The longest sequence of a model; ∞ where its configuration knows none."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or np.inf


@contextlib.contextmanager
def events(folder: Path | str | None) -> Iterator[Callable[[dict], None]]:
    """What `policies` tells every row of its curve: a writer of TensorBoard's scalars, in `folder` if there is one."""
    if folder is None:
        yield lambda row: None
        return
    try:
        module = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise UserError(
            "tensorboard: expected the package tensorboard, found none; type pip install "
            "--constraint envs/constraints.txt tensorboard"
        ) from None
    path, writers = str(Path(folder).resolve()), []

    def observe(row: dict) -> None:
        if not writers:
            writers.append(module.SummaryWriter(path))
        for name in row.keys() - {"step"}:
            writers[0].add_scalar(name.replace(" ", "/"), row[name], row["step"])

    try:
        yield observe
    finally:
        for writer in writers:
            writer.close()


@torch.no_grad()
def expert_tables(out: Path, spec: dict, *, runtime: Runtime, resume: Path, policy: Path, preferences: Path) -> None:
    """Write `experts.csv`, the table of `expert_table`, and `experts.md`, its cells."""
    frame = pd.read_parquet(preferences / "validation.parquet")
    if spec["styles"] is not None:
        frame = frame[frame["style"].isin(spec["styles"])]
    users = frame["user"].tolist() if "user" in frame else None
    log_w = Policy.from_pretrained(policy / "model", runtime).log_weights(frame["prompt_ids"].tolist(), users)
    table = expert_table(pd.read_parquet(policy / "responsibilities.parquet"), log_w.exp().cpu().numpy())
    table.to_csv(out / "experts.csv", index=False)
    cells = table.assign(cell=[f"{mean:.3f} ± {se:.3f}" for mean, se in zip(table["mean"], table["se"], strict=True)])
    cells = cells.pivot(index=[table.columns[0], "n"], columns="column", values="cell")[list(table["column"].unique())]
    text = cells.reset_index().to_markdown(index=False, disable_numparse=True)
    (out / "experts.md").write_text(f"{CAPTION}\n\n{text}\n")


def expert_table(found: pd.DataFrame, weights: np.ndarray) -> pd.DataFrame:
    """Figures of the experts on validation triplets: style (or user, or preferences), column, mean, se, n.

    `found` is responsibilities.parquet, `weights` (N, K) are those of its rows. Columns: q0 to qK−1, mean
    responsibilities; accuracy0 to accuracyK−1, shares of margin_k > 0; accuracy of the mixture, the share of
    Σ_k w_k sigmoid(margin_k) > 1/2. Without styles and users there is one row, all.
    """
    label = next((column for column in ("style", "user") if column in found), "preferences")
    rows = found[label] if label in found else pd.Series("all", index=found.index)
    experts = range(weights.shape[1])
    margins = found[[f"margin{k}" for k in experts]].to_numpy()
    values = {f"q{k}": found[f"q{k}"].to_numpy() for k in experts}
    values |= {f"accuracy{k}": margins[:, k] > 0 for k in experts}
    values["accuracy of the mixture"] = (weights * expit(margins)).sum(axis=1) > 0.5
    table = []
    for row in sorted(rows.unique()):
        here = (rows == row).to_numpy()
        for column, value in values.items():
            mean, se = mean_and_se(value[here])
            table.append({label: row, "column": column, "mean": mean, "se": se, "n": int(here.sum())})
    return pd.DataFrame(table)


def generate(
    policy: Path | str,
    prompt: str,
    *,
    n: int = 1,
    user: str | None = None,
    expert: int | None = None,
    mixture: str = "token",
    top_s: int | None = None,
    max_new_tokens: int = 48,
    temperature: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> list[str]:
    """`n` continuations of `prompt`, without it, from a policy's folder or one that `train` wrote.

    expert, mixture and top_s are those of `Policy.generate`. Raises `UserError`.
    """
    folder = policy_folder(Path(policy))
    if not prompt:
        raise UserError("prompt: expected text, found none; type some")
    for name, value in {"n": n, "max_new_tokens": max_new_tokens, "temperature": temperature}.items():
        if value <= 0:
            raise UserError(f"{name}: expected a number > 0, found {value}; raise it")
    runtime = Runtime.choose(device, precision, threads or os.cpu_count())
    loaded, tokenizer = Policy.from_pretrained(folder, runtime), AutoTokenizer.from_pretrained(folder)
    if user is not None and not getattr(loaded.weights, "users", {}):
        raise UserError(f"user: expected none, for the weights of {folder} know no users, found {user}; drop it")
    check_tokenizer("policy", tokenizer, loaded)
    ids = tokenizer(prompt)["input_ids"]
    if not ids:
        raise UserError(f"prompt: expected text with tokens, found none in {prompt!r}; type other text")
    limit = positions_of(loaded)
    if len(ids) + max_new_tokens > limit:
        raise UserError(
            f"max_new_tokens: expected at most {limit - len(ids):g}, the model's {limit:g} positions less the prompt's "
            f"{len(ids)}, found {max_new_tokens}; lower it"
        )
    loaded.config.eos_token_id = tokenizer.eos_token_id  # what completions ended with in training
    how = {"runtime": runtime, "seed": seed, "max_new_tokens": max_new_tokens, "temperature": temperature}
    how |= {"expert": expert, "mixture": mixture, "top_s": top_s, "users": None if user is None else [user] * n}
    return tokenizer.batch_decode(loaded.generate([ids] * n, **how), skip_special_tokens=True)


def policy_folder(path: Path) -> Path:
    """The folder of the model: `path` itself, or below it where `train` puts it."""
    for folder in (path, path / "model", path / "policy/model"):
        if (folder / "policy.json").is_file() or (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"{path}: expected the folder of a policy, found none; name the --out of train, or a model's folder"
    )
