"""One choice of the method at a time: its rewards, how sure weights and responsibilities are, and its cost."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import mean_and_se
from mixdpo.paper.rewards import level
from mixdpo.paper.recovery import recovery
from mixdpo.paper.scores import per_prompt, policies_in, samples
from mixdpo.paper.table import Table
from mixdpo.paper.text import number, show


def entropy(shares: np.ndarray) -> np.ndarray:
    """−Σ_k p_k log p_k in nats of each row of (N, K), with 0 log 0 = 0; returns (N,)."""
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)


def seconds_per_step(artifacts: dict[str, Path], experiment: str, method: str) -> float:
    """Wall seconds per step of a method's training jobs, mean over seeds with a run record; NaN if there is none."""
    found = []
    for policy in policies_in(artifacts, method):
        if path := artifacts.get(f"record:policies:{experiment}/{policy}"):
            steps = len(pd.read_csv(artifacts[f"policies:{policy}"] / "curve.csv"))
            found.append(json.loads(path.read_text())["seconds"] / steps)
    return float(np.mean(found)) if found else np.nan


def ablations_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """One choice of the method at a time: rewards, entropy of w on test prompts and of q on validation triplets, cost.

    Entropies are in nats; `of log K` is their share of the largest possible. `recovered` is the best-permutation
    accuracy of argmax_k q_k for the style. Seconds per step are the wall seconds of the training job, imports and
    validation included, over its steps.
    """
    table = Table()
    for entry in form["rows"]:
        method, name, decoding = entry["policy"], entry["name"], entry.get("decoding", "token")
        frame, row = samples(artifacts, method, decoding), table.row(name, experiment=form["experiment"], policy=method)
        row.label("Model")
        for reward, heading in form["columns"].items():
            ours = level(name, reward, frame)
            row.number(heading, show(ours["mean"], ours["se"]), [ours], column=reward, decoding=decoding)
        weights, q, recovered = certainty(artifacts, method)
        for letter, values, experts in ("w", *weights), ("q", *q):
            (mean, se), heading = mean_and_se(values), f"Entropy of {letter}, nats (of log K)"
            share = mean / np.log(experts)
            line = {"row": name, "column": heading, "mean": mean, "se": se, "of_log_k": share}
            row.number(heading, f"{show(mean, se)} ({number(share, 2)})", [line])
        seconds = seconds_per_step(artifacts, form["experiment"], method)
        for heading, mean in ("Style recovered", recovered), ("Seconds a step, with imports", seconds):
            row.number(heading, number(mean), [{"row": name, "column": heading, "mean": mean}])
        row.number("n (prompts, triplets)", f"{frame['prompt_id'].nunique()}, {len(q[0])}")
    return table


def certainty(artifacts: dict[str, Path], method: str) -> tuple[tuple, tuple, float]:
    """Entropies of w per test prompt and of q per validation triplet, each with K; the share of styles recovered."""
    weights, q, recovered = [], [], []
    for policy in policies_in(artifacts, method):
        w = pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet")
        weights.append(w[["prompt_id"]].assign(entropy=entropy(w.filter(regex="^w[0-9]+$").to_numpy())))
        triplets = pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet")
        shares = triplets.filter(regex="^q[0-9]+$")
        q.append(entropy(shares.to_numpy()))
        recovered.append(recovery(triplets[["style"]].join(shares)))
    experts = shares.shape[1]
    return (per_prompt(pd.concat(weights), "entropy"), experts), (np.mean(q, axis=0), experts), np.mean(recovered)
