"""Rewards over KL of single experts, each scaled towards the reference, and compared at equal KL.

Scaled by λ, an expert is ∝ π_k^λ π_ref^(1−λ) for each token: the reference at 0, itself at 1.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.paper.fair_trial import as_line, best_of_each, experts_by_prompt, of_best, over_seeds, sigma
from mixdpo.paper.scores import policies_in
from mixdpo.paper.table import Table


@dataclass(frozen=True)
class Frontier:
    """Of one method: means per seed and prompt of each expert's completions at each scale, from 0 to 1.

    scales (P,), rewards (P, seeds, prompts, K, R), kl (P, seeds, prompts, K) in nats.
    """

    scales: np.ndarray
    rewards: np.ndarray
    kl: np.ndarray


def frontier(form: dict, artifacts: dict[str, Path], method: str) -> Frontier:
    """The reference stands for every expert at λ = 0."""
    columns, scales = [*form["columns"], "kl"], scales_of(artifacts, method)
    ways = [f"@{scale:g}" for scale in scales] + [""]
    points = [experts_by_prompt(artifacts, method, columns, at) for at in ways]
    start = experts_by_prompt(artifacts, "reference", columns)
    start[..., -1] = 0.0
    points = np.stack([np.broadcast_to(start, points[0].shape), *points])
    return Frontier(np.array([0.0, *scales, 1.0]), points[..., :-1], points[..., -1])


def scales_of(artifacts: dict[str, Path], method: str) -> list[float]:
    """The λ between 0 and 1 that a method was sampled at, in order."""
    folder = artifacts[f"completions:{policies_in(artifacts, method, 'completions')[0]}"]
    names = pd.read_parquet(folder / "completions.parquet", columns=["decoding"])["decoding"].unique()
    return sorted({float(name.partition("@")[2]) for name in names if re.search("@", name)})


def at_kl(of: Frontier, kl: np.ndarray) -> np.ndarray:
    """Rewards (seeds, prompts, K, R) at the KL (seeds, K) of each expert, piecewise linear between its scales.

    The KLs of a seed's scales are means over its prompts, so that a prompt's rewards are weighted as all are.
    """
    found = np.empty(of.rewards.shape[1:])
    for seed, expert in np.ndindex(kl.shape):
        known = of.kl[:, seed, :, expert].mean(axis=1)
        order = np.argsort(known, kind="stable")
        weights = [np.interp(kl[seed, expert], known[order], row[order]) for row in np.eye(len(known))]
        found[seed, :, expert] = np.tensordot(weights, of.rewards[:, seed, :, expert], axes=1)
    return found


def at_equal_kl(own: Frontier, base: Frontier) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of every expert less the baseline's, (seeds, prompts, K, R), at the smaller of their last KLs, (seeds,
    K)."""
    last = own.kl[-1].mean(axis=1)
    kl = np.minimum(last, base.kl[-1].mean(axis=1))  # (seeds, K)
    width = kl.shape[1]
    copies = Frontier(base.scales, base.rewards.repeat(width, axis=3), base.kl.repeat(width, axis=3))
    return at_kl(own, kl) - at_kl(copies, kl), kl


def frontier_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """A row for each expert, and one for the best of each reward, chosen on the other half of the prompts.

    Levels and KL (nats) are those of the policy as trained. `REWARD at equal KL` is an expert's reward less the
    baseline's, in SDs of the baseline's scores, at the smaller of their KLs, which is `equal kl`.
    """
    table, base = Table(), frontier(form, artifacts, form["baseline"])
    unit = sigma(base.rewards[-1, :, :, 0])
    for entry in form["rows"]:
        method = entry["policy"]
        alone = method in ("reference", form["baseline"])
        for part in parts_of(frontier(form, artifacts, method), None if alone else base):
            name = entry["name"] + part["name"]
            samples = {"policy": method, "decoding": part["decoding"]} if part["decoding"] else {}
            row = table.row(name, experiment=form["experiment"], **samples)
            row.label("Model")
            cells = {
                heading: (reward, part["rewards"][..., r])
                for r, (reward, heading) in enumerate(form["columns"].items())
            }
            cells["KL(π ‖ π_ref), nats"] = "kl", part["kl"]
            if not alone:
                for r, (reward, heading) in enumerate(form["columns"].items()):
                    difference = part["differences"][..., r] / unit[r]
                    cells[f"{heading} − DPO at equal KL [95 %], σ"] = f"{reward} at equal KL", difference
                cells["Equal KL, nats"] = "equal kl", part["equal"]
            for heading, (column, values) in cells.items():
                if values is not None:
                    line = {"row": name, "column": column} | as_line(values)
                    less, digits = "−" in heading, 1 if "nats" in heading else 3
                    row.number(heading, over_seeds(line, digits, "+" if less else "-", less), [line], column=column)
            row.number("n (seeds, prompts)", ", ".join(map(str, part["rewards"].shape[:2])))
    return table


def parts_of(own: Frontier, base: Frontier | None) -> list[dict]:
    """What each expert's row says, and the row of the best of each reward; without `base` there are no differences."""
    rewards, kl = own.rewards[-1], own.kl[-1]
    experts = rewards.shape[2]
    differences, equal = (np.zeros_like(rewards), None) if base is None else at_equal_kl(own, base)
    parts = [
        {
            "name": f", expert {k}" if experts > 1 else "",
            "decoding": f"expert{k}" if experts > 1 else "token",
            "rewards": rewards[:, :, k],
            "kl": kl[..., k],
            "differences": differences[:, :, k],
            "equal": None if equal is None else equal[:, k, None],
        }
        for k in range(experts)
    ]
    if experts > 1:
        heads = best_of_each(rewards)
        best = {"rewards": of_best(rewards, heads), "differences": of_best(differences, heads)}
        parts.append({"name": ", best expert of each reward", "decoding": None, "kl": None, "equal": None} | best)
    return parts
