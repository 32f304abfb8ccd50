"""One choice of the method at a time: its rewards, how sure weights and responsibilities are, and its cost."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import mean_and_se
from mixdpo.paper.recovery import recovered_by_seed
from mixdpo.paper.rewards import level
from mixdpo.paper.scores import policies_in, samples, triplets_of
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
    """One choice of the method at a time: rewards, entropy of w on test prompts and of q on test triplets, cost.

    Entropies are in nats; `of log K` is their share of the largest possible. A style is recovered where the expert of
    the largest margin is that of the triplet's style. Seconds per step are the wall seconds of the
    training job, imports and validation included, over its steps.
    """
    table = Table()
    for entry in form["rows"]:
        method, name, decoding = entry["policy"], entry["name"], entry.get("decoding", "token")
        frame, row = samples(artifacts, method, decoding), table.row(name, experiment=form["experiment"], policy=method)
        row.label("Model")
        for reward, heading in form["columns"].items():
            ours = level(name, reward, frame)
            row.number(heading, show(ours["mean"], ours["se"]), [ours], column=reward, decoding=decoding)
        weights, q, recovered, triplets = certainty(artifacts, method)
        for letter, values, experts in ("w", *weights), ("q", *q):
            (mean, se), heading = mean_and_se(values), f"Entropy of {letter}, nats (of log K)"
            share = mean / np.log(experts)
            line = {"row": name, "column": heading, "mean": mean, "se": se, "of_log_k": share}
            row.number(heading, f"{show(mean, se)} ({number(share, 2)})", [line])
        seconds = seconds_per_step(artifacts, form["experiment"], method)
        for heading, mean in ("Style recovered", recovered), ("Seconds a step, with imports", seconds):
            row.number(heading, number(mean), [{"row": name, "column": heading, "mean": mean}])
        row.number("n (prompts, triplets)", f"{frame['prompt_id'].nunique()}, {triplets}")
    return table


def certainty(artifacts: dict[str, Path], method: str) -> tuple[tuple, tuple, float, int]:
    """Entropies of w by test prompt and of q by test triplet, (seeds × those), each with K; the share of styles
    recovered, and the number of triplets."""
    weights, q, experts = [], [], 1
    for policy in policies_in(artifacts, method):
        w = pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet")
        weights.append(entropy(w.filter(regex="^w[0-9]+$").to_numpy()))
        shares = triplets_of(artifacts[f"policies:{policy}"]).filter(regex="^q[0-9]+$").to_numpy()
        q.append(entropy(shares))
        experts = shares.shape[1]
    recovered = float(recovered_by_seed(artifacts, method)[0].to_numpy().mean())
    return (np.stack(weights), experts), (np.stack(q), experts), recovered, len(shares)
