"""Tables of rewards: levels beside the published ones, gains with their cost in KL, and every policy's best experts.

A mean is over test prompts, each prompt's score averaged over training seeds first; `se` is SD/√n over n test prompts.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import mean_and_se
from mixdpo.paper.recovery import recovery
from mixdpo.paper.scores import head_order, per_prompt, samples
from mixdpo.paper.table import Table
from mixdpo.paper.text import beside, in_print, number, show


def level(row: str, column: str, frame: pd.DataFrame) -> dict:
    """Mean ± SE over test prompts, and the spread (SD) of the means of several training seeds."""
    mean, se = mean_and_se(per_prompt(frame, column))
    seeds = frame.groupby("seed")[column].mean()
    return {
        "row": row,
        "column": column,
        "mean": mean,
        "se": se,
        "prompts": frame["prompt_id"].nunique(),
        "seeds": len(seeds),
        "seed_sd": seeds.std() if len(seeds) > 1 else np.nan,
    }


def rewards_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Rows are policies and ways of decoding them, columns rewards, or one `reward` by the prompts' domain.

    `mean` is over test prompts, each prompt's score averaged over training seeds first; `se` is SD/√n over the n test
    prompts, `seed_sd` the SD of the seeds' means. Every published value is kept with the place where it is printed.
    """
    table = Table()
    for entry in form["rows"]:
        name, decoding, counts = entry["name"], entry.get("decoding", "token"), set()
        frame = samples(artifacts, entry["policy"], decoding)
        row = table.row(name, experiment=form["experiment"], policy=entry["policy"], decoding=decoding)
        row.label("Model")
        for column, heading in form["columns"].items():
            part, domain = frame, None
            if "reward" in form:
                part, domain = frame[frame["domain"] == column].rename(columns={form["reward"]: column}), column
            ours, values = level(name, column, part), entry.get("published", {}).get(column, [])
            spread = f" (seeds {number(ours['seed_sd'])})" if ours["seeds"] > 1 else ""
            about = {"published": in_print(values), "column": column, "domain": domain}
            row.number(heading, show(ours["mean"], ours["se"]) + spread, beside(ours, values), **about)
            counts.add(ours["prompts"])
        row.number("n", "–".join(map(str, sorted({min(counts), max(counts)}))))
    return table


def alignment_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Gains over the reference in its own standard deviations, paired by prompt, beside KL(π ‖ π_ref) in nats.

    `gain` is the mean over the rewards of (score − reference mean) / reference SD; `gain in REWARD` is one reward's
    part. `se` is SD/√n over test prompts.
    """
    reference, table = samples(artifacts, form["baseline"]), Table()
    mean, deviation = reference[form["rewards"]].mean(), reference[form["rewards"]].std()

    def figures(frame: pd.DataFrame) -> pd.DataFrame:
        """Per prompt: standardised rewards, their mean, log-ratio to the reference, tokens."""
        gains = ((frame[form["rewards"]] - mean) / deviation).add_prefix("gain in ")
        ratio = frame["log_prob"] - frame["reference_log_prob"]
        tokens = frame["completion_ids"].str.len()
        columns = gains.assign(gain=gains.mean(axis=1), kl=ratio, tokens=tokens, prompt_id=frame["prompt_id"])
        return columns.groupby("prompt_id").mean()

    base = figures(reference)
    for entry in form["rows"]:
        name, decoding, lines = entry["name"], entry.get("decoding", "token"), {}
        own = figures(samples(artifacts, entry["policy"], decoding))
        for column in own:
            paired = own[column] - base[column] if column.startswith("gain") else own[column]
            gain, se = mean_and_se(paired)
            lines[column] = {"row": name, "column": column, "mean": gain, "se": se, "n": len(own)}
        table.records += lines.values()
        row = table.row(name, experiment=form["experiment"], policy=entry["policy"], decoding=decoding)
        row.label("Model")
        shown = {column: show(line["mean"], line["se"], 2 if column == "kl" else 3) for column, line in lines.items()}
        ratio = lines["gain"]["mean"] / lines["gain"]["se"] if lines["gain"]["se"] else np.nan
        row.number("Mean gain, σ", shown["gain"], [lines["gain"]], column="gain")
        row.number("Mean gain / SE", number(ratio, 1), [lines["gain"]], column="gain")
        for reward in form["rewards"]:
            column = f"gain in {reward}"
            row.number(f"{reward.capitalize()}, σ", shown[column], [lines[column]], column=column)
        row.number("KL(π ‖ π_ref), nats", shown["kl"], [lines["kl"]], column="kl")
        row.number("Tokens", number(lines["tokens"]["mean"], 1), [lines["tokens"]], column="tokens")
        row.number("n", len(own))
    return table


def best_experts_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """For every method and reward: its best expert, and that expert's gain over the baseline, paired by prompt.

    `recovered` is the best-permutation accuracy of argmax_k q_k for the style of the validation triplets, mean over
    seeds, beside what shuffled styles give: mean and 95 % quantile.
    """
    table = Table()
    for entry in form["rows"]:
        name, orders = entry["name"], head_order(artifacts, entry["policy"])
        experts = [samples(artifacts, entry["policy"], f"expert{k}") for k in range(len(next(iter(orders.values()))))]
        rng, recovered = np.random.default_rng(form["seed"]), []
        for policy in orders:
            q = pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet")
            shuffled = [recovery(q.assign(style=rng.permutation(q["style"]))) for _ in range(form["shuffles"])]
            recovered.append((recovery(q), np.mean(shuffled), np.quantile(shuffled, 0.95)))
        mean, chance, quantile = np.mean(recovered, axis=0)
        row = table.row(name, experiment=form["experiment"], policy=entry["policy"])
        row.label("Model")
        line = {"row": name, "column": "recovered", "mean": mean, "chance": chance, "chance_95": quantile}
        row.number("Style recovered", number(mean), [line], column="recovered")
        row.number("by chance (95 % below)", f"{number(chance)} ({number(quantile)})")
        for reward, heading in form["columns"].items():
            baseline = per_prompt(samples(artifacts, form["baseline"]), reward)
            gains = [mean_and_se(per_prompt(frame, reward) - baseline) for frame in experts]
            best = int(np.argmax([gain for gain, _ in gains]))
            gain, se = gains[best]
            line = {"row": name, "column": reward, "expert": f"Expert {best}", "mean": gain, "se": se}
            shown = f"Expert {best}: {show(gain, se, sign='+')}" + (f" ({number(gain / se, 1, '+')} SE)" if se else "")
            row.number(heading, shown, [line], column=reward, decoding=f"expert{best}")
    return table
