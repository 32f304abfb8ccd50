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
    """Write `train.parquet`, `validation.parquet` and `test.parquet`, split by prompt, `counts.csv` and
    `agreement.csv`.

    `datasets.load_dataset("parquet", data_dir=…)` reads the three as splits, with the columns prompt, chosen,
    rejected that preference trainers expect. Beside them are style, domain, pair (the numbers of the two samples) and
    for each m of `annotators` a column annotator_m.
    """
    scores = pd.read_parquet(rewards / "scores.parquet")
    frame = pd.read_parquet(completions / "completions.parquet")
    comparisons = compare(frame.merge(scores, on=["prompt_id", "sample"], validate="1:1"), spec["styles"])
    shares = {split: spec[f"{split}_share"] for split in ("validation", "test")}
    comparisons["split"] = splits_of(comparisons, shares, spec["seed"])
    untied = comparisons[~comparisons["tie"]]
    for m in spec["annotators"]:
        comparisons[f"annotator_{m}"] = annotators_of(untied, m, spec["seed"])
    write_preferences(out, comparisons, ["train", *shares], rewards)
    style_agreement(comparisons).to_csv(out / "agreement.csv", index=False)


def splits_of(comparisons: pd.DataFrame, shares: dict[str, float], seed: int) -> pd.Series:
    """The split of every comparison: each named split gets its share of the prompts, drawn by `seed`, and train the
    rest."""
    prompts, split = comparisons["prompt_id"].unique(), pd.Series("train", index=comparisons.index)
    sizes = {name: max(1, round(share * len(prompts))) for name, share in shares.items()}
    held_out = sum(sizes.values()) / max(1, len(prompts))
    drawn = validation_prompts(prompts, comparisons[~comparisons["tie"]], held_out, seed)
    for name, size in sizes.items():
        split[comparisons["prompt_id"].isin(drawn[:size])] = name
        drawn = drawn[size:]
    return split


def annotators_of(triplets: pd.DataFrame, m: int, seed: int) -> pd.Series:
    """The annotator of every triplet, by a name that tells neither style nor split.

    An annotator has one style and m triplets of one split, dealt at random; the last of a style may have fewer.
    """
    rng = np.random.default_rng([seed, m])
    dealt = triplets[["split", "style"]].iloc[rng.permutation(len(triplets))]
    dealt = dealt.assign(place=dealt.groupby(["split", "style"]).cumcount() // m)
    number = dealt.groupby(["split", "style", "place"]).ngroup()
    names = np.array([f"annotator-{i:05}" for i in rng.permutation(number.nunique())], dtype=object)
    return pd.Series(names[number], index=dealt.index)


def write_preferences(out: Path, comparisons: pd.DataFrame, splits: list[str], source: Path) -> None:
    """Write the untied comparisons of each split as `SPLIT.parquet`, and `counts.csv`: by style, pairs, ties, and
    triplets of each split."""
    triplets = comparisons[~comparisons["tie"]]
    found = triplets["split"].value_counts().reindex(splits, fill_value=0)
    if not found.all():
        numbers = ", ".join(f"{n} for {split}" for split, n in found.items())
        ties = len(comparisons) - len(triplets)
        raise UserError(f"{source}: expected preferences, found {numbers} beside {ties} ties; give it more prompts")
    for split, part in triplets.groupby("split"):
        part = part.drop(columns=["swapped", "tie", "split"]).reset_index(drop=True)
        part.to_parquet(out / f"{split}.parquet", index=False)
    compared = comparisons.drop_duplicates(["prompt_id", "pair", "style"])  # several users may see a pair
    counts = compared.groupby("style").agg(pairs=("tie", "size"), ties=("tie", "sum"))
    counts = counts.join(pd.crosstab(triplets["style"], triplets["split"])[splits])
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
