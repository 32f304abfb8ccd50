"""What tables and figures read from a run: scores of test completions, and which heads of different seeds match.

`artifacts` are folders of one experiment, named `stage:policy` as `within` leaves them.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from mixdpo.run.layout import split_policy


def policies_in(artifacts: dict[str, Path], method: str, stage: str = "policies") -> list[str]:
    """The policies of a method, `METHOD/seedN` or `reference`, of which `stage` has artifacts."""
    names = (name.partition(":") for name in artifacts)
    return [policy for kind, _, policy in names if kind == stage and split_policy(policy)[0] == method]


def triplets_of(policy: Path, split: str = "test") -> pd.DataFrame:
    """Rows of a policy's responsibilities.parquet of one split."""
    found = pd.read_parquet(policy / "responsibilities.parquet")
    return found[found["split"] == split].reset_index(drop=True)


def head_order(artifacts: dict[str, Path], method: str) -> dict[str, list[int]]:
    """For every seed's policy: which of its experts is shown as head 0, 1, …

    Which expert takes which style is chance, so the experts of further seeds are matched to those of the first by
    their profiles: mean responsibilities per style and domain on validation triplets, less each expert's mean.
    """
    profiles = {}
    for policy in policies_in(artifacts, method):
        table = triplets_of(artifacts[f"policies:{policy}"], "validation")
        q = sorted(table.filter(regex="^q[0-9]+$"), key=lambda name: int(name[1:]))
        labels = [c for c in ("style", "domain") if c in table]
        means = [table.groupby(c)[q].mean() for c in labels]
        profiles[policy] = np.concatenate([(m - m.mean()).to_numpy() for m in means]).T  # (K, labels)
    orders, first = {}, next(iter(profiles.values()), None)
    for policy, profile in profiles.items():
        distance = ((first[:, None] - profile[None]) ** 2).sum(axis=2)
        orders[policy] = linear_sum_assignment(distance)[1].tolist()
    return orders


def samples(artifacts: dict[str, Path], method: str, decoding: str = "token") -> pd.DataFrame:
    """Completions and rewards of a method's policies, every training seed: one row per completion, with a column seed.

    Decoding is `token`, `sequence`, `expertK` (as `head_order` numbers them), one expert scaled by λ (`expertK@λ`), or
    `sparse`, for each prompt the expert with the largest weight.
    """
    frames, orders = [], head_order(artifacts, method)
    for policy in policies_in(artifacts, method, "completions"):
        folder, order = artifacts[f"completions:{policy}"], orders.get(policy)
        frame = scored(folder, artifacts[f"rewards:{policy}"])
        if decoding == "sparse":
            weights = pd.read_parquet(folder / "weights.parquet").set_index("prompt_id").filter(regex="^w")
            frame = frame[
                frame["decoding"] == frame["prompt_id"].map(weights.idxmax(axis=1)).str.replace("w", "expert")
            ]
        else:
            expert, at, scale = decoding.removeprefix("expert").partition("@")
            frame = frame[
                frame["decoding"] == (f"expert{order[int(expert)]}{at}{scale}" if expert.isdigit() else decoding)
            ]
        frames.append(frame.assign(seed=split_policy(policy)[1]))
    return pd.concat(frames, ignore_index=True)


@cache
def scored(completions: Path, rewards: Path) -> pd.DataFrame:
    """Completions with their rewards, kept because one table asks for the same many times."""
    frame = pd.read_parquet(completions / "completions.parquet")
    scores = pd.read_parquet(rewards / "scores.parquet")
    return frame.merge(scores, on=["prompt_id", "sample", "decoding"], validate="1:1")


def by_seed(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Means of `column`, (seeds × test prompts), for `hierarchical` and `mean_and_se`. `frame` has a column seed."""
    return frame.groupby(["seed", "prompt_id"])[column].mean().unstack()


def difference(own: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """own − base of (seeds × test prompts): seed by seed where both were trained, all of own less the reference."""
    trained = base.index.intersection(own.index)
    return own.loc[trained] - base.loc[trained] if len(trained) else own - base.iloc[0]


def learned_differences(policy: Path, reference: Path) -> tuple[np.ndarray, np.ndarray]:
    """What the heads on the shared encoder have learned, W_k − W_k(start), and what was injected, W_k(start) − W_ref.

    Both are (K, V, d). W_k(start) is W_ref with the noise that `Policy.perturb` adds, drawn again from the seed and
    the perturbation that the policy's manifest records.
    """
    import torch  # importing torch and transformers takes seconds, and most tables do without
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    spec = json.loads((policy / "manifest.json").read_text())["spec"]
    tensors = load_file(policy / "model" / "mixture.safetensors")
    heads = torch.stack([tensors[f"heads.{k}"] for k in range(sum(name.startswith("heads.") for name in tensors))])
    model = AutoModelForCausalLM.from_pretrained(reference / "model", dtype=torch.float32)
    weight = model.get_output_embeddings().weight.detach()
    generator = torch.Generator().manual_seed(spec["seed"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a training job: the threads change the last bits of a mean, and t-SNE shows them
    alpha = spec["experts"]["perturbation"] * weight.square().mean().sqrt().item()
    torch.set_num_threads(threads)
    noise = (torch.randn(weight.shape, generator=generator) for _ in heads)
    start = torch.stack([weight.add(draw, alpha=alpha) for draw in noise])
    return (heads - start).numpy(), (start - weight).numpy()


def moved_rows(differences: np.ndarray, count: int) -> np.ndarray:
    """The `count` tokens whose rows of W_k − W_k(start), (K, V, d), have the largest mean norm over heads, in order."""
    norms = np.linalg.norm(differences, axis=2).mean(axis=0)
    return np.sort(np.argsort(-norms, kind="stable")[:count])
