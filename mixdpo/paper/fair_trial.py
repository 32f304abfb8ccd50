"""Whether experts part, and what it is worth: likelihood, style recovered, and the best expert for each reward.

Means and intervals are those of `statistics.hierarchical`, for new seeds and new prompts. Everything about triplets is
measured on those of the test prompts.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import by_cluster, hierarchical, mean_and_se, share
from mixdpo.paper.measures import leaders
from mixdpo.paper.recovery import correlation_of_margins, named_by, recovered_by_seed
from mixdpo.paper.scores import head_order, policies_in, samples, triplets_of
from mixdpo.paper.table import Table
from mixdpo.paper.text import interval, number, show

TRIPLET = ["prompt", "pair", "style"]
"""Columns that name a triplet of a split."""


def fair_trial_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Rows are methods; the `ceiling` is one whose experts are each taught a style, `baseline` has a single expert.

    −log P is that of (5), the gain in log P the baseline's −log P less the row's. `recovered` is the share of
    triplets whose expert of the largest margin is that of their style, `chance` the same if the styles of a pair
    are permuted, and `of_ceiling` (recovered − chance) as a share of the same of the ceiling. `annotators` is the
    share whose likeliest expert over all of their training triplets is that of their style. Of a reward, the best
    expert is chosen on one half of the prompts and measured on the other, in SDs of the baseline's scores; `kl`
    (nats) is its own.
    """
    table = Table()
    ceiling = style_recovered(artifacts, form["ceiling"])
    for entry in form["rows"]:
        name, method = entry["name"], entry["policy"]
        found = trial(form, artifacts, method, ceiling)
        lines = {column: {"row": name, "column": column} | line for column, line in found.items()}
        row = table.row(name, experiment=form["experiment"])
        row.label("Model")

        def print_(heading: str, column: str, row=row, lines=lines, **how) -> None:
            line = lines.get(column)
            row.number(heading, over_seeds(line, **how) if line else "–", [line] if line else [], column=column)

        print_("−log P", "likelihood", digits=4)
        print_("Gain in log P [95 %]", "gain", digits=4, sign="+", bounds=True)
        print_("Style recovered", "recovered")
        row.number("by chance", number(lines.get("recovered", {}).get("chance", np.nan)))
        row.number("share of the ceiling", number(lines.get("recovered", {}).get("of_ceiling", np.nan), 2))
        print_("Annotators recovered [95 %]", "annotators", bounds=True)
        print_("Correlation of margins", "correlation", digits=2)
        for reward, heading in form["columns"].items():
            print_(f"{heading}, best expert [95 %], σ", reward, sign="+", bounds=True)
            print_(f"{heading}, its KL, nats", f"kl {reward}", digits=1)
        row.number("n (seeds, prompts, triplets)", counts(lines["likelihood"]))
    return table


def over_seeds(line: dict, digits: int = 3, sign: str = "-", bounds: bool = False) -> str:
    """A mean ± its SE over seeds and prompts, or with the `bounds` of its interval."""
    if bounds and not np.isnan(line["low"]):
        return f"{number(line['mean'], digits, sign)} {interval(line['low'], line['high'], sign, digits)}"
    return show(line["mean"], line["se"], digits, sign)


def counts(line: dict) -> str:
    return f"{line['seeds']}, {line['prompts']}, {line['triplets']}"


def trial(form: dict, artifacts: dict[str, Path], method: str, ceiling: dict) -> dict[str, dict]:
    """What `fair_trial_table` says of a method, by column; `ceiling` is `style_recovered` of the taught experts."""
    frames, baseline = (triplets_by_seed(artifacts, name) for name in (method, form["baseline"]))
    about = {"seeds": len(frames), "prompts": frames[0]["prompt"].nunique(), "triplets": len(frames[0])}
    found = {"likelihood": by_prompt(frames, [-frame["log_p"] for frame in frames]) | about}
    if method != form["baseline"]:
        gains = [gain(frame, base) for frame, base in zip(frames, baseline, strict=True)]
        found["gain"] = by_prompt(frames, gains) | about
    if "margin1" in frames[0]:
        style, span = style_recovered(artifacts, method), ceiling["mean"] - ceiling["chance"]
        reached = ceiling["low"] > ceiling["chance"]  # else it is no ceiling
        style["of_ceiling"] = (style["mean"] - style["chance"]) / span if reached else np.nan
        policies = [artifacts[f"policies:{policy}"] for policy in policies_in(artifacts, method)]
        mean, se = mean_and_se([correlation_of_margins(policy) for policy in policies])
        found |= {"recovered": style | about, "correlation": {"mean": mean, "se": se, "seeds": len(policies)}}
        if told := annotators(policies):
            found["annotators"] = told
    return found | best_experts(form, artifacts, method)


def triplets_by_seed(artifacts: dict[str, Path], method: str) -> list[pd.DataFrame]:
    """Test triplets of each of a method's policies, experts as they were trained."""
    return [triplets_of(artifacts[f"policies:{policy}"]) for policy in policies_in(artifacts, method)]


def by_prompt(frames: list[pd.DataFrame], values: list) -> dict:
    """Mean over seeds of what every triplet has, with SE and interval over seeds and prompts."""
    return as_line([by_cluster(own, frame["prompt"]) for own, frame in zip(values, frames, strict=True)])


def as_line(values, shares: bool = False) -> dict:
    """Mean of values (seeds, units) with SE and interval; NaN where there is none.

    Where `shares` of right answers are all alike, which need not mean that they are certain, as `statistics.share`.
    """
    values = np.asarray(values, float)
    if np.isnan(values).all():
        return dict.fromkeys(("mean", "se", "low", "high"), np.nan)
    found = hierarchical(values)
    found = share(values) if shares and found.se == 0 else found
    return {"mean": found.effect, "se": found.se, "low": found.low, "high": found.high}


def gain(frame: pd.DataFrame, baseline: pd.DataFrame) -> np.ndarray:
    """log P of every triplet less the baseline's of the same triplet."""
    other = baseline.set_index(TRIPLET)["log_p"]
    return frame["log_p"].to_numpy() - other.loc[pd.MultiIndex.from_frame(frame[TRIPLET])].to_numpy()


def style_recovered(artifacts: dict[str, Path], method: str) -> dict:
    """Style recovered by margins on test triplets, with its interval over seeds and prompts, and `chance`."""
    share, chance = recovered_by_seed(artifacts, method)
    return as_line(share) | {"chance": float(chance.to_numpy().mean())}


def annotators(policies: list[Path]) -> dict | None:
    """Share of annotators whose expert, of the largest log-likelihood of their training triplets, is that of their
    style; None where no responsibility is an annotator's. Experts are named on validation triplets."""
    right = []
    for policy in policies:
        if not (policy / "units.parquet").exists():
            return None
        units, names = pd.read_parquet(policy / "units.parquet"), named_by(triplets_of(policy, "validation"))
        experts = units[[f"l{k}" for k in range(len(names))]].to_numpy().argmax(axis=1)
        right.append(names[experts] == units["style"])
    line = as_line(right, shares=True)
    bounds = {"low": max(line["low"], 0.0), "high": min(line["high"], 1.0)}
    return line | bounds | {"seeds": len(right), "annotators": len(units)}


def experts_by_prompt(artifacts: dict[str, Path], method: str, columns: list[str], at: str = "") -> np.ndarray:
    """Means per seed and prompt of the completions of every expert alone: (seeds, prompts, K, columns).

    A column is a reward or `kl`, log π/π_ref. Seeds and prompts are in the order of their names; `at` is `@λ` of a
    scaled policy.
    """
    orders = head_order(artifacts, method)
    experts = len(next(iter(orders.values()))) if orders else 1
    ways = ["token"] if experts == 1 else [f"expert{k}" for k in range(experts)]
    found = []
    for way in ways:
        frame = samples(artifacts, method, way + at)
        frame["kl"] = frame["log_prob"] - frame["reference_log_prob"]
        means = frame.groupby(["seed", "prompt_id"])[columns].mean()
        found.append(means.to_numpy().reshape(frame["seed"].nunique(), -1, len(columns)))
    return np.stack(found, axis=2)


def best_experts(form: dict, artifacts: dict[str, Path], method: str) -> dict[str, dict]:
    """REWARD → the best expert's scores less the baseline's of the same seed, in σ, and `kl REWARD`, its KL."""
    rewards, found = list(form["columns"]), {}
    own, base = (experts_by_prompt(artifacts, name, [*rewards, "kl"]) for name in (method, form["baseline"]))
    unit, heads = sigma(base[:, :, 0, :-1]), best_of_each(own[..., :-1])
    best, kl = of_best(own[..., :-1], heads), of_best(np.broadcast_to(own[..., -1:], own[..., :-1].shape), heads)
    about = {"seeds": len(own), "prompts": own.shape[1]}
    for r, reward in enumerate(rewards):
        if method != form["baseline"]:
            difference = (best[..., r] - base[:, :, 0, r]) / unit[r]
            found[reward] = as_line(difference) | about
        found[f"kl {reward}"] = as_line(kl[..., r]) | about
    return found


def sigma(scores: np.ndarray) -> np.ndarray:
    """SD over the prompts, pooled within the seeds, of scores (seeds, prompts, rewards); 1 where all are alike."""
    found = np.sqrt(scores.var(axis=1, ddof=1).mean(axis=0))
    return np.where(found, found, 1.0)


def best_of_each(scores: np.ndarray) -> np.ndarray:
    """Which expert each seed has for each reward, as `leaders` chooses it; the only one where there is but one.

    Scores (seeds, prompts, K, rewards) → (seeds, prompts, rewards).
    """
    chosen = np.stack([leaders(one) for one in scores])
    return np.zeros_like(chosen) if scores.shape[2] == 1 else chosen


def of_best(values: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """Values (seeds, prompts, K, rewards) of the chosen experts: (seeds, prompts, rewards), NaN where there is none."""
    found = np.take_along_axis(values, heads.clip(0)[:, :, None], axis=2)[:, :, 0]
    return np.where(heads < 0, np.nan, found)
