"""Tables of rewards: levels beside the published ones, gains with their cost in KL, and every policy's best experts.

A mean is over test prompts and training seeds; `se` is that of `statistics.hierarchical`, with one seed SD/√n.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import mean_and_se
from mixdpo.paper.recovery import correlation_of_margins, recovered_by_seed
from mixdpo.paper.scores import by_seed, difference, head_order, samples
from mixdpo.paper.table import Row, Table
from mixdpo.paper.text import beside, in_print, number, show


def level(row: str, column: str, frame: pd.DataFrame) -> dict:
    """Mean ± SE over training seeds and test prompts, and the spread (SD) of the means of several seeds."""
    mean, se = mean_and_se(by_seed(frame, column))
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

    `seed_sd` is the SD of the seeds' means. Every published value is kept with the place where it is printed.
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
    part.
    """
    reference, table = samples(artifacts, form["baseline"]), Table()
    mean, deviation = reference[form["rewards"]].mean(), reference[form["rewards"]].std()

    def figures(frame: pd.DataFrame) -> pd.DataFrame:
        """By seed and prompt: standardised rewards, their mean, log-ratio to the reference, tokens."""
        gains = ((frame[form["rewards"]] - mean) / deviation).add_prefix("gain in ")
        ratio = frame["log_prob"] - frame["reference_log_prob"]
        tokens = frame["completion_ids"].str.len()
        columns = gains.assign(gain=gains.mean(axis=1), kl=ratio, tokens=tokens)
        return columns.groupby([frame["seed"], frame["prompt_id"]]).mean()

    base = figures(reference)
    for entry in form["rows"]:
        name, decoding, lines = entry["name"], entry.get("decoding", "token"), {}
        own = figures(samples(artifacts, entry["policy"], decoding))
        for column in own:
            values = own[column].unstack()
            gain, se = mean_and_se(difference(values, base[column].unstack()) if column.startswith("gain") else values)
            lines[column] = {"row": name, "column": column, "mean": gain, "se": se, "n": values.shape[1]}
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
        row.number("n", values.shape[1])
    return table


def best_experts_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """For every method and reward: its best expert, and that expert's gain over the baseline, paired by prompt.

    `recovered` is the share of test triplets whose expert of the largest margin is that of their style, beside its
    `chance`, the correlation of the experts' margins, and what the heads of the row's `ceiling`, which were taught
    their styles, recover.
    """
    table = Table()
    for entry in form["rows"]:
        name, method = entry["name"], entry["policy"]
        orders = head_order(artifacts, method)
        row = table.row(name, experiment=form["experiment"], policy=method)
        row.label("Model")
        print_recovered(row, entry, artifacts)
        alike = float(np.mean([correlation_of_margins(artifacts[f"policies:{policy}"]) for policy in orders]))
        line = {"row": name, "column": "correlation of margins", "mean": alike}
        row.number("Correlation of margins", number(alike, 2), [line], column="correlation of margins")
        experts = [samples(artifacts, method, f"expert{k}") for k in range(len(next(iter(orders.values()))))]
        for reward, heading in form["columns"].items():
            baseline = by_seed(samples(artifacts, form["baseline"]), reward)
            gains = [mean_and_se(difference(by_seed(frame, reward), baseline)) for frame in experts]
            best = int(np.argmax([gain for gain, _ in gains]))
            gain, se = gains[best]
            line = {"row": name, "column": reward, "expert": f"Expert {best}", "mean": gain, "se": se}
            shown = f"Expert {best}: {show(gain, se, sign='+')}" + (f" ({number(gain / se, 1, '+')} SE)" if se else "")
            row.number(heading, shown, [line], column=reward, decoding=f"expert{best}")
    return table


def print_recovered(row: Row, entry: dict, artifacts: dict[str, Path]) -> None:
    """Style recovered ± SE, by chance, and by heads that were taught their styles if the entry names such a method."""
    share, chance = recovered_by_seed(artifacts, entry["policy"])
    (mean, se), by_chance = mean_and_se(share), float(chance.to_numpy().mean())
    line = {"row": entry["name"], "column": "recovered", "mean": mean, "se": se, "chance": by_chance}
    row.number("Style recovered", show(mean, se), [line], column="recovered")
    row.number("by chance", number(by_chance))
    if "ceiling" in entry:
        mean, se = mean_and_se(recovered_by_seed(artifacts, entry["ceiling"])[0])
        line = {"row": entry["name"], "column": "recovered when taught", "mean": mean, "se": se}
        row.number("by heads taught their style", show(mean, se), [line], column="recovered when taught")
