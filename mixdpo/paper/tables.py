"""Tables in print: ours beside the published values, as csv (every digit), JSON, Markdown and LaTeX."""

import json
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from mixdpo.data.statistics import mean_and_se
from mixdpo.method.runtime import Runtime
from mixdpo.paper.cells import cell, show
from mixdpo.paper.claims import claims_table, comparisons_table, sensitivity_table
from mixdpo.paper.extensions import ablations_table, length_bias_table, users_table, win_rates_table
from mixdpo.paper.scores import head_order, per_prompt, policies_in, recovery, samples, scored, within
from mixdpo.run.published import resolved, sources_of
from mixdpo.run.stages import STAGES
from mixdpo.run.yaml import read

LATEX = {
    "±": r"$\pm$",
    "σ": r"$\sigma$",
    "β": r"$\beta$",
    "✓": r"\checkmark",
    "✗": r"$\times$",
    "‖": r"$\|$",
    "π": r"$\pi$",
    "≥": r"$\ge$",
    "–": "--",
}


def tables(out: Path, spec: dict, *, runtime: Runtime, resume: Path, published: Path, **artifacts: Path) -> None:
    """Write `TABLE.csv` with one row a cell, its `nested` numbers as `TABLE.json`, and `.md` and `.tex` as it is read.

    `artifacts` are named as `graph.table_inputs` names them.
    """
    scored.cache_clear()  # an audit makes many tables in one process, and its files are to be read anew
    table = read(published)
    table = resolved(table, {name: read(artifacts.pop(name)) for name in sources_of(table)})
    if "experiments" in table:
        known = {name.partition(":")[2].partition("/")[0] for name in artifacts}
        table["experiments"] = [experiment for experiment in table["experiments"] if experiment in known]
    cells, grid = KINDS[table["kind"]](table, within(artifacts, table.get("experiment")))
    cells.to_csv(out / f"{spec['table']}.csv", index=False)
    (out / f"{spec['table']}.json").write_text(json.dumps(nested(cells), indent=2, ensure_ascii=False) + "\n")
    for suffix, fmt in ("md", "github"), ("tex", "latex_booktabs"):
        text = tabulate(grid, headers="keys", tablefmt=fmt, showindex=False, disable_numparse=True, missingval="")
        if suffix == "tex":
            for sign, command in LATEX.items():
                text = text.replace(sign, command)
            (out / f"{spec['table']}.tex").write_text(f"% {table['title']}\n{text}\n")
        else:
            (out / f"{spec['table']}.md").write_text(f"**{table['title']}** ({table['where']})\n\n{text}\n")


def nested(cells: pd.DataFrame) -> dict:
    """Our numbers by the labels that stand before them, {row: {column: {name: number}}}, for `dvc metrics diff`."""
    labels = list(takewhile(lambda name: not pd.api.types.is_numeric_dtype(cells[name]), cells))
    ours = cells.select_dtypes("number").loc[:, lambda numbers: ~numbers.columns.str.startswith("published")]
    tree: dict = {}
    for names, numbers in zip(cells[labels].values, ours.to_dict("records"), strict=True):
        place = tree
        for name in names:
            place = place.setdefault(name, {})
        place.update({name: number for name, number in numbers.items() if pd.notna(number)})
    return tree


def rewards_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows are policies and ways of decoding them, columns rewards, or one `reward` by the prompts' domain.

    `mean` is over test prompts, each prompt's score averaged over training seeds first; `se` is SD/√n over the n test
    prompts, `seed_sd` the SD of the seeds' means. Every published value is kept with the place where it is printed.
    """
    cells, grid = [], []
    for row in table["rows"]:
        frame, line = samples(artifacts, row["policy"], row.get("decoding", "token")), {"Model": row["name"]}
        counts = set()
        for column, heading in table["columns"].items():
            part = frame[frame["domain"] == column] if "reward" in table else frame
            ours = cell(row["name"], column, part.rename(columns={table.get("reward", column): column}))
            printed = row.get("published", {}).get(column, [])
            cells += [
                ours | {"published_mean": p["mean"], "published_se": p["se"], "published_where": p["where"]}
                for p in printed or [{"mean": np.nan, "se": np.nan, "where": ""}]
            ]
            spread = f" (seeds {ours['seed_sd']:.3f})" if ours["seeds"] > 1 else ""
            line[heading] = show(ours["mean"], ours["se"]) + spread
            values = [show(p["mean"], p["se"]) for p in printed]
            several = len(set(values)) > 1
            shown = [f"{v} ({p['where']})" if several else v for v, p in zip(values, printed, strict=True)]
            line[f"{heading}, published"] = "; ".join(dict.fromkeys(shown))
            counts.add(ours["prompts"])
        grid.append(line | {"n": "–".join(map(str, sorted({min(counts), max(counts)})))})
    return pd.DataFrame(cells), pd.DataFrame(grid)


def alignment_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gains over the reference in its own standard deviations, paired by prompt, beside KL(π ‖ π_ref) in nats.

    `gain` is the mean over the rewards of (score − reference mean) / reference SD; `gain in REWARD` is its part. `se`
    is SD/√n over test prompts.
    """
    reference = samples(artifacts, table["baseline"])
    mean, deviation = reference[table["rewards"]].mean(), reference[table["rewards"]].std()

    def figures(frame: pd.DataFrame) -> pd.DataFrame:
        """Per prompt: standardised rewards, their mean, log-ratio to the reference, tokens."""
        gains = ((frame[table["rewards"]] - mean) / deviation).add_prefix("gain in ")
        ratio = frame["log_prob"] - frame["reference_log_prob"]
        tokens = frame["completion_ids"].str.len()
        columns = gains.assign(gain=gains.mean(axis=1), kl=ratio, tokens=tokens, prompt_id=frame["prompt_id"])
        return columns.groupby("prompt_id").mean()

    base, cells, grid = figures(reference), [], []
    for row in table["rows"]:
        own = figures(samples(artifacts, row["policy"], row.get("decoding", "token")))
        values = {}
        for column in own:
            paired = own[column] - base[column] if column.startswith("gain") else own[column]
            values[column] = mean_and_se(paired)
            cells.append(
                {
                    "row": row["name"],
                    "column": column,
                    "mean": values[column][0],
                    "se": values[column][1],
                    "n": len(own),
                }
            )
        line = {"Model": row["name"], "Mean gain, σ": show(*values["gain"])}
        line["Mean gain / SE"] = f"{values['gain'][0] / values['gain'][1]:.1f}" if values["gain"][1] else "–"
        line |= {f"{r.capitalize()}, σ": show(*values[f"gain in {r}"]) for r in table["rewards"]}
        line |= {"KL(π ‖ π_ref), nats": show(*values["kl"], 2), "Tokens": f"{values['tokens'][0]:.1f}", "n": len(own)}
        grid.append(line)
    return pd.DataFrame(cells), pd.DataFrame(grid)


def best_heads_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """For every method and reward: its best head, and that head's gain over the baseline, paired by prompt.

    `recovered` is the best-permutation accuracy of argmax_k q_k for the style of the validation triplets, mean over
    seeds, beside what shuffled styles give: mean and 95 % quantile.
    """
    cells, grid = [], []
    for row in table["rows"]:
        orders = head_order(artifacts, row["policy"])
        heads = {
            f"Head {k}": samples(artifacts, row["policy"], f"expert{k}")
            for k in range(len(next(iter(orders.values()))))
        }
        rng, recovered = np.random.default_rng(table["seed"]), []
        for policy in orders:
            q = pd.read_parquet(artifacts[f"policies:{policy}"] / "responsibilities.parquet")
            shuffled = [recovery(q.assign(style=rng.permutation(q["style"]))) for _ in range(table["shuffles"])]
            recovered.append((recovery(q), np.mean(shuffled), np.quantile(shuffled, 0.95)))
        mean, chance, quantile = np.mean(recovered, axis=0)
        line = {
            "Model": row["name"],
            "Style recovered": f"{mean:.3f}",
            "by chance (95 % below)": f"{chance:.3f} ({quantile:.3f})",
        }
        cells.append({"row": row["name"], "column": "recovered", "mean": mean, "chance": chance, "chance_95": quantile})
        for reward, heading in table["columns"].items():
            baseline = per_prompt(samples(artifacts, table["baseline"]), reward)
            gains = {head: mean_and_se(per_prompt(frame, reward) - baseline) for head, frame in heads.items()}
            head, (mean, se) = max(gains.items(), key=lambda item: item[1][0])
            cells.append({"row": row["name"], "column": reward, "head": head, "mean": mean, "se": se})
            line[heading] = f"{head}: {mean:+.3f} ± {se:.3f}" + (f" ({mean / se:+.1f} SE)" if se else "")
        grid.append(line)
    return pd.DataFrame(cells), pd.DataFrame(grid)


def compute_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the artifacts of a run cost, by stage and in all, from the run records beside them.

    `core seconds` are wall seconds times threads, `peak memory` is the largest resident set of a job in MiB. Jobs
    without a record (made elsewhere, say) are counted in `unrecorded` and cost what nobody knows.
    """
    jobs = []
    for name, folder in artifacts.items():
        if name.startswith("record:"):
            continue
        stage = json.loads((folder / "manifest.json").read_text())["stage"]
        path = artifacts.get(f"record:{name}")
        record = json.loads(path.read_text()) if path else {}
        jobs.append(
            {
                "stage": stage,
                "seconds": record["seconds"] * record["threads"] if record else np.nan,
                "memory": record.get("peak_memory_mib", np.nan),
                "device": f"{record['device']} ({record['processor']})" if record else None,
            }
        )
    frame = pd.DataFrame(jobs)
    order = {stage: own for stage in STAGES if len(own := frame[frame["stage"] == stage])}
    cells, grid = [], []
    for stage, own in (order | {"all": frame}).items():
        figures = {
            "jobs": len(own),
            "core seconds": own["seconds"].sum(min_count=1),
            "peak memory": own["memory"].max(),
        }
        figures["unrecorded"] = int(own["seconds"].isna().sum())
        devices = "; ".join(sorted(own["device"].dropna().unique()))
        cells += [{"row": stage, "column": c, "value": v, "devices": devices} for c, v in figures.items()]
        grid.append(
            {
                "Stage": stage,
                "Jobs": figures["jobs"],
                "Time of a core, s": f"{figures['core seconds']:.0f}",
                "Peak memory, MiB": f"{figures['peak memory']:.0f}",
                "Device": devices,
                "Jobs without a record": figures["unrecorded"],
            }
        )
    return pd.DataFrame(cells), pd.DataFrame(grid).replace("nan", "–")


def gates_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Share of prompts that the gate sends to the expert of their domain: after pretraining, and on test prompts.

    `se` is √(p(1 − p)/n) after pretraining, and for a policy SD/√n over test prompts, averaged over seeds first.
    """
    rows = []
    pretrained = pd.read_csv(artifacts[f"gates:{table['experiment']}"] / "accuracy.csv")
    for line in pretrained.itertuples():
        se = np.sqrt(line.accuracy * (1 - line.accuracy) / line.prompts)
        rows.append(("After pretraining", f"{line.split} prompts", line.accuracy, se, line.prompts))
    for row in table["rows"]:
        right = []
        for policy in policies_in(artifacts, row["policy"], "completions"):
            frame = pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet")
            chosen = frame.filter(regex="^w").to_numpy().argmax(axis=1)
            right.append(chosen == frame["domain"].map({d: k for k, d in enumerate(table["domains"])}).to_numpy())
        mean, se = mean_and_se(np.mean(right, axis=0))
        rows.append((row["name"], "test prompts", mean, se, len(right[0])))
    cells = pd.DataFrame(rows, columns=["row", "column", "mean", "se", "n"]).assign(chance=1 / len(table["domains"]))
    grid = pd.DataFrame({"Gate": cells["row"], "Prompts": cells["column"]})
    grid["Accuracy"] = [show(mean, se) for mean, se in zip(cells["mean"], cells["se"], strict=True)]
    grid["Published"] = cells["row"].map(table["published"]).fillna("")
    return cells, grid.assign(Chance=cells["chance"].map("{:.3f}".format), n=cells["n"])


def validity_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The validity stage's figures: rewards and tests down, kinds of text across; the aim is for whole reviews."""
    cells = pd.read_csv(artifacts["validity"] / "validity.csv")
    cells["bar"] = cells["reward"].map(table["bars"]).where(cells["text"] == "whole review")
    grid = []
    for (reward, test, metric), rows in cells.groupby(["reward", "test", "metric"]):
        whole, crop = (rows[rows["text"] == text].iloc[0] for text in ("whole review", "crop"))
        grid.append(
            {
                "Reward": reward,
                "Test": test,
                "Metric": metric,
                "Whole review": f"{whole['value']:.3f}",
                "Aim": f"≥ {whole['bar']:.2f}",
                "Crop": f"{crop['value']:.3f}",
                "n (whole, crop)": f"{whole['n']}, {crop['n']}",
            }
        )
    return cells, pd.DataFrame(grid)


def perplexity_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Perplexity per token on test reviews, by experiment and domain, before and after fine-tuning."""
    tables = {name: pd.read_csv(artifacts[f"sft:{name}"] / "perplexity.csv") for name in table["experiments"]}
    cells = pd.concat(tables, names=["experiment"]).reset_index("experiment")
    grid = pd.DataFrame(
        {
            "Experiment": cells["experiment"],
            "Domain": cells["domain"],
            "Base model": cells["before"].map("{:.2f}".format),
            "After SFT": cells["after"].map("{:.2f}".format),
            "Test reviews": cells["reviews"],
        }
    )
    return cells, grid


def preferences_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs, ties and triplets per style; of the pairs tied under neither of two styles, the share ordered alike."""
    cells, grid = [], []
    for experiment in table["experiments"]:
        folder = artifacts[f"preferences:{experiment}"]
        counts, agreement = pd.read_csv(folder / "counts.csv"), pd.read_csv(folder / "agreement.csv")
        alike = {
            (a, b): v for x, y, v in agreement[["style", "other", "agreement"]].values for a, b in ((x, y), (y, x))
        }
        for line in counts.itertuples():
            figures = {name: getattr(line, name) for name in ("pairs", "ties", "train", "validation")}
            figures |= {
                f"agrees with {o}": alike.get((line.style, o), np.nan) for o in counts["style"] if o != line.style
            }
            cells += [
                {"experiment": experiment, "style": line.style, "figure": f, "value": v} for f, v in figures.items()
            ]
            shown = {f"Agrees with {o}": f"{alike.get((line.style, o), np.nan):.3f}" for o in counts["style"]}
            grid.append(
                {
                    "Experiment": experiment,
                    "Style": line.style,
                    "Pairs": line.pairs,
                    "Ties": line.ties,
                    "Train": line.train,
                    "Validation": line.validation,
                }
                | shown
            )
    return pd.DataFrame(cells), pd.DataFrame(grid).fillna("–").replace("nan", "–")


KINDS = {
    "rewards": rewards_table,
    "alignment": alignment_table,
    "best_heads": best_heads_table,
    "gates": gates_table,
    "validity": validity_table,
    "perplexity": perplexity_table,
    "preferences": preferences_table,
    "comparisons": comparisons_table,
    "claims": claims_table,
    "sensitivity": sensitivity_table,
    "compute": compute_table,
    "win_rates": win_rates_table,
    "length_bias": length_bias_table,
    "users": users_table,
    "ablations": ablations_table,
}
"""Kind of table → function of its published form and the artifacts: (one row a cell, the grid as printed)."""
