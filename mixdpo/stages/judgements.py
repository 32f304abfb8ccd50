"""Judgements: a policy's completions against those of other policies, every pair judged in both orders."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mixdpo.errors import UserError
from mixdpo.provenance.artifact import write_json
from mixdpo.stages.judges import Comparison, build

if TYPE_CHECKING:
    from mixdpo.method.runtime import Runtime

PAIR = ["decoding", "opponent", "prompt_id", "user", "style"]
SCORES = {"win": 1.0, "loss": 0.0, "tie": 0.5, "failed": float("nan")}


def decoded(folder: Path, decoding: str) -> pd.DataFrame:
    """The completions of one way of decoding, one for each prompt and user, which are the index.

    For each prompt, `sparse` is the completion of the expert with the largest weight.
    """
    frame, wanted = pd.read_parquet(folder / "completions.parquet"), decoding
    if decoding == "sparse":
        weights = pd.read_parquet(folder / "weights.parquet").set_index("prompt_id").filter(regex="^w[0-9]+$")
        wanted = frame["prompt_id"].map(weights.idxmax(axis=1)).str.replace("w", "expert")
    chosen = frame[frame["decoding"] == wanted].set_index(["prompt_id", "user"])
    lacking = frame["prompt_id"].nunique() - chosen.index.get_level_values("prompt_id").nunique()
    if chosen.empty or lacking or not chosen.index.is_unique:
        raise UserError(
            f"{folder}/completions.parquet: expected one {decoding} completion a prompt and user, found {len(chosen)} "
            f"for {chosen.index.nunique()} and none for {lacking} prompts; set per_prompt to 1 and make it again"
        )
    return chosen


def pairs_of(policy: Path, opponents: dict[str, Path]) -> pd.DataFrame:
    """One row for each pair: the columns of PAIR, instruction, own and other text, tokens_difference (own minus other).

    A policy of several experts is judged as a mixture (`token`), by its expert of the largest weight (`sparse`) and by
    each expert (`expertK`).
    """
    written = pd.read_parquet(policy / "completions.parquet", columns=["decoding"])["decoding"]
    experts, frames = [name for name in written.unique() if re.fullmatch(r"expert\d+", name)], []
    for decoding in ["token", *["sparse"] * bool(experts), *experts]:
        own = decoded(policy, decoding)
        for opponent, folder in opponents.items():
            other = decoded(folder, "token")
            same = own[["instruction", "style"]].sort_index().equals(other[["instruction", "style"]].sort_index())
            if not same:
                raise UserError(
                    f"{folder}: expected completions of the prompts, users and styles of {policy}, found others; "
                    "make both from the same prompts"
                )
            other = other.loc[own.index]
            columns = {
                "instruction": own["instruction"],
                "style": own["style"],
                "own": own["completion"],
                "other": other["completion"],
                "tokens_difference": own["completion_ids"].str.len() - other["completion_ids"].str.len(),
            }
            frames.append(pd.DataFrame(columns).reset_index().assign(decoding=decoding, opponent=opponent))
    return pd.concat(frames, ignore_index=True)


def judgements(
    out: Path,
    spec: dict,
    *,
    runtime: "Runtime",
    resume: Path,
    policy: Path,
    rating_classifier: Path | None = None,
    **others: Path,
) -> None:
    """Write `judgements.parquet`, one row for each pair and order, and `counts.json`.

    `others` are opponents by name, and the files of the judge's model, which `spec` names, as `reward_model/FILE`.

    `order` is 1 where the policy's text stood first. choice and score are from the policy's side: win 1, loss 0, tie
    0.5, failed NaN. Equal comparisons are asked once, and counted once in requests and attempts. contradictions is the
    share of pairs with one win and one loss, among pairs with both judgements.
    """
    pairs = pairs_of(policy, {name: path for name, path in others.items() if not name.startswith("reward_model/")})
    table = pairs.loc[pairs.index.repeat(2)].reset_index(drop=True)
    table["order"] = np.tile([0, 1], len(pairs))
    first, second = (np.where(table["order"] == place, table["own"], table["other"]) for place in (1, 0))
    judge = spec["judge"]
    if rating_classifier:
        judge = judge | {"rating": judge["rating"] | {"path": rating_classifier}}
    given = build(judge, runtime.device)(
        [Comparison(*texts) for texts in zip(table["instruction"], table["style"], first, second)]
    )
    choices = [{"first": "win", "second": "loss"}, {"first": "loss", "second": "win"}]
    table["choice"] = [choices[order == 0].get(v.choice, v.choice) for order, v in zip(table["order"], given)]
    table["score"] = table["choice"].map(SCORES)
    for name in ("answer", "attempts", "error"):
        table[name] = [getattr(judgement, name) for judgement in given]
    columns = [*PAIR, "order", "choice", "score", "tokens_difference", "answer", "attempts", "error"]
    table[columns].to_parquet(out / "judgements.parquet", index=False)
    asked = table.assign(first=first, second=second).drop_duplicates(["instruction", "style", "first", "second"])
    both = table["score"].to_numpy().reshape(-1, 2)
    both = both[np.isfinite(both).all(axis=1)]
    counts = {
        "pairs": len(pairs),
        "judgements": len(table),
        "failures": int((table["choice"] == "failed").sum()),
        "requests": int((asked["attempts"] > 0).sum()),
        "attempts": int(asked["attempts"].sum()),
        "contradictions": float((abs(both[:, 0] - both[:, 1]) == 1).mean()) if len(both) else None,
    }
    write_json(out / "counts.json", counts)


def pair_scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each pair of judgements.parquet: the columns of PAIR, tokens_difference, and score, the mean of the
    orders that did not fail. A pair is dropped if both orders failed."""
    pairs = table.dropna(subset="score").groupby(PAIR, as_index=False, dropna=False)
    return pairs.agg(score=("score", "mean"), tokens_difference=("tokens_difference", "first"))


def by_length(difference: np.ndarray, edges: tuple[float, float]) -> dict[str, np.ndarray]:
    """Which pairs are those where the policy's completion is shorter (tokens_difference below edges[0]), longer (above
    edges[1]) or about as long."""
    shorter, longer = difference < edges[0], difference > edges[1]
    return {"shorter": shorter, "about as long": ~shorter & ~longer, "longer": longer}
