"""Preference triplets: every pair of completions of one prompt, compared once per style."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime

TEXTS = ["prompt_ids", "completion_ids", "prompt", "completion"]


def compare(completions: pd.DataFrame, styles: list[str]) -> pd.DataFrame:
    """All comparisons, one row per pair and style, ties included (`tie` is true, chosen is the first sample).

    `completions` has the columns of the completions stage and one column a style. A style prefers the completion
    with the higher score; the model never sees the style.
    """
    samples = {s: g.set_index("prompt_id") for s, g in completions.groupby("sample")}
    rows = []
    for first, second in combinations(sorted(samples), 2):
        a, b = samples[first], samples[second].reindex(samples[first].index)
        for style in styles:
            swap = (b[style] > a[style]).to_numpy()

            def pick(column, chosen, a=a, b=b, swap=swap):
                return np.where(swap if chosen else ~swap, b[column], a[column])

            rows.append(
                pd.DataFrame(
                    {
                        "prompt_id": a.index,
                        "prompt": a["prompt"].to_numpy(),
                        "chosen": pick("completion", True),
                        "rejected": pick("completion", False),
                        "style": style,
                        "domain": a["domain"].to_numpy(),
                        "chosen_score": pick(style, True).astype(float),
                        "rejected_score": pick(style, False).astype(float),
                        "prompt_ids": a["prompt_ids"].to_numpy(),
                        "chosen_ids": pick("completion_ids", True),
                        "rejected_ids": pick("completion_ids", False),
                        "pair": f"{first}-{second}",
                        "swapped": swap,
                        "tie": (a[style] == b[style]).to_numpy(),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def style_agreement(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Share of pairs that two styles order alike, ties left out: columns style, other, pairs, agreement."""
    untied = comparisons[~comparisons["tie"]]
    order = untied.pivot(index=["prompt_id", "pair"], columns="style", values="swapped")
    rows = []
    for style, other in combinations(order.columns, 2):
        both = order[[style, other]].dropna()
        agreement = (both[style] == both[other]).mean()
        rows.append({"style": style, "other": other, "pairs": len(both), "agreement": agreement})
    return pd.DataFrame(rows, columns=["style", "other", "pairs", "agreement"])


def preferences(out: Path, spec: dict, *, runtime: Runtime, resume: Path, completions: Path, rewards: Path) -> None:
    """Write `train.parquet` and `validation.parquet`, split by prompt, `counts.csv` and `agreement.csv`.

    `datasets.load_dataset("parquet", data_dir=…)` reads the two as splits, with the columns prompt, chosen,
    rejected that preference trainers expect, and style and domain beside them.
    """
    scores = pd.read_parquet(rewards / "scores.parquet")
    frame = pd.read_parquet(completions / "completions.parquet")
    comparisons = compare(frame.merge(scores, on=["prompt_id", "sample"], validate="1:1"), spec["styles"])
    write_preferences(out, comparisons, spec, rewards)
    style_agreement(comparisons).to_csv(out / "agreement.csv", index=False)


def write_preferences(out: Path, comparisons: pd.DataFrame, spec: dict, source: Path) -> None:
    """Write the untied comparisons as `train.parquet` and `validation.parquet`, and `counts.csv` by style.

    `validation_share` of the prompts, drawn by `seed`, go to validation.
    """
    triplets = comparisons[~comparisons["tie"]].drop(columns=["pair", "swapped", "tie"])
    prompts = comparisons["prompt_id"].unique()
    validation = triplets["prompt_id"].isin(
        validation_prompts(prompts, triplets, spec["validation_share"], spec["seed"])
    )
    if validation.all() or not validation.any():
        raise UserError(
            f"{source}: expected preferences for training and for validation, found {(~validation).sum()} and "
            f"{validation.sum()} beside {len(comparisons) - len(triplets)} ties; give it more prompts"
        )
    for name, part in ("train", triplets[~validation]), ("validation", triplets[validation]):
        part.reset_index(drop=True).to_parquet(out / f"{name}.parquet", index=False)
    counts = comparisons.groupby("style").agg(pairs=("tie", "size"), ties=("tie", "sum"))
    counts["train"] = triplets[~validation].groupby("style").size()
    counts["validation"] = triplets[validation].groupby("style").size()
    counts.fillna(0).astype(int).reset_index().to_csv(out / "counts.csv", index=False)


def validation_prompts(prompts: Sequence[int], triplets: pd.DataFrame, validation_share: float, seed: int) -> list[int]:
    """`validation_share` of `prompts`, drawn by `seed`; every user keeps one for training."""
    users = triplets["user"] if "user" in triplets else pd.Series("", index=triplets.index)
    users_of = users.groupby(triplets["prompt_id"]).unique()
    left, chosen = triplets.groupby(users)["prompt_id"].nunique(), []
    wanted = max(1, round(validation_share * len(prompts)))
    for prompt in np.random.default_rng(seed).permutation(prompts):
        asking = users_of.get(prompt, [])
        if len(chosen) < wanted and (left[asking] > 1).all():
            left[asking] -= 1
            chosen.append(int(prompt))
    return chosen
