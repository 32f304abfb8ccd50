"""Tables about the stages of a run: what they cost, what they learned, and whether the rewards are sound."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mixdpo.data.statistics import mean_and_se
from mixdpo.paper.scores import policies_in
from mixdpo.paper.table import Table
from mixdpo.paper.text import number, show
from mixdpo.run.kinds import in_words
from mixdpo.run.stages import STAGES


def compute_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """What the artifacts of a run cost, by stage and in all, from the run records beside them.

    `cpu seconds` are the jobs' processor time over all threads. `wall seconds` are what the clock says, with waiting
    for a busy machine. `peak memory` is the largest resident set of a job in MiB. Jobs without a
    record of the processor's time (made elsewhere, say) are counted in `unrecorded`.
    """
    jobs = []
    for name, folder in artifacts.items():
        if name.startswith("record:"):
            continue
        stage = json.loads((folder / "manifest.json").read_text())["stage"]
        path = artifacts.get(f"record:{name}")
        record = json.loads(path.read_text()) if path else {}
        device = f"{record['device']} ({record['processor']})" if record else None
        seconds = {key: record.get(key, np.nan) for key in ("cpu_seconds", "seconds", "peak_memory_mib")}
        jobs.append({"stage": stage, "device": device} | seconds)
    frame, table = pd.DataFrame(jobs), Table()
    order = {stage: own for stage in STAGES if len(own := frame[frame["stage"] == stage])}
    for stage, own in (order | {"all": frame}).items():
        figures = {
            "jobs": len(own),
            "cpu seconds": own["cpu_seconds"].sum(min_count=1),
            "wall seconds": own["seconds"].sum(min_count=1),
            "peak memory": own["peak_memory_mib"].max(),
            "unrecorded": int(own["cpu_seconds"].isna().sum()),
        }
        devices, row = "; ".join(sorted(own["device"].dropna().unique())), table.row(stage)
        lines = {c: [{"row": stage, "column": c, "value": v, "devices": devices}] for c, v in figures.items()}
        row.label("Stage", in_words(stage))
        for heading, column in {
            "Jobs": "jobs",
            "Processor's time, s": "cpu seconds",
            "Wall time, s": "wall seconds",
            "Peak memory, MiB": "peak memory",
        }.items():
            row.number(heading, number(figures[column], 0), lines[column], column=column)
        row.text("Device", devices)
        row.number("Jobs without a record", figures["unrecorded"], lines["unrecorded"], column="unrecorded")
    return table


def gates_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Share of prompts that the gate sends to the expert of their domain: after pretraining, and on test prompts.

    `se` is √(p(1 − p)/n) after pretraining, and for a policy that of `statistics.hierarchical`.
    """
    rows, domains = [], {domain: k for k, domain in enumerate(form["domains"])}
    for line in pd.read_csv(artifacts[f"gates:{form['experiment']}"] / "accuracy.csv").itertuples():
        se = np.sqrt(line.accuracy * (1 - line.accuracy) / line.prompts)
        rows.append(("After pretraining", f"{line.split} prompts", line.accuracy, se, line.prompts))
    for entry in form["rows"]:
        right = []
        for policy in policies_in(artifacts, entry["policy"], "completions"):
            frame = pd.read_parquet(artifacts[f"completions:{policy}"] / "weights.parquet")
            chosen = frame.filter(regex="^w").to_numpy().argmax(axis=1)
            right.append(chosen == frame["domain"].map(domains).to_numpy())
        mean, se = mean_and_se(np.stack(right))
        rows.append((entry["name"], "test prompts", mean, se, len(right[0])))
    table = Table()
    for name, prompts, mean, se, n in rows:
        row, chance = table.row(name, experiment=form["experiment"]), 1 / len(domains)
        line = {"row": name, "column": prompts, "mean": mean, "se": se, "n": n, "chance": chance}
        published = [form["published"][name]] if name in form["published"] else []
        row.label("Gate")
        row.label("Prompts", prompts)
        row.number("Accuracy", show(mean, se), [line], published, column=prompts, above_published="Published")
        row.number("Chance", number(chance))
        row.number("n", n)
    return table


def validity_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """The validity stage's numbers: rewards and tests down, kinds of text across.

    The aim is for both kinds, since what a reward scores is as long as a crop.
    """
    found = pd.read_csv(artifacts["validity"] / "validity.csv")
    found["bar"] = found["reward"].map(form["bars"])
    table = Table(records=found.to_dict("records"))
    for reward, test, metric in sorted({(r["reward"], r["test"], r["metric"]) for r in table.records}):
        own = [r for r in table.records if (r["reward"], r["test"], r["metric"]) == (reward, test, metric)]
        whole, crop = (next(r for r in own if r["text"] == text) for text in ("whole review", "crop"))
        row = table.row(reward)
        row.label("Reward", in_words(reward))
        row.label("Test", test)
        row.label("Metric", metric)
        row.number("Whole review", number(whole["value"]), [whole], column="whole review")
        row.number("Crop", number(crop["value"]), [crop], column="crop")
        row.number("Aim", f"≥ {whole['bar']:.2f}")
        reached = [
            text for text, found in (("whole reviews", whole), ("crops", crop)) if found["value"] >= whole["bar"]
        ]
        row.text("Reached by", "both" if len(reached) == 2 else f"{reached[0]} alone" if reached else "neither")
        row.number("n (whole, crop)", f"{whole['n']}, {crop['n']}")
    return table


def perplexity_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Perplexity per token on test reviews, by experiment and domain, before and after fine-tuning."""
    table = Table()
    for experiment in form["experiments"]:
        for found in pd.read_csv(artifacts[f"sft:{experiment}"] / "perplexity.csv").to_dict("records"):
            line, row = {"experiment": experiment} | found, table.row(experiment, experiment=experiment)
            row.label("Experiment", in_words(experiment))
            row.label("Domain", in_words(line["domain"]))
            row.number("Base model", number(line["before"], 2), [line], column="before")
            row.number("After SFT", number(line["after"], 2), [line], column="after")
            row.number("Test texts", line["reviews"])
    return table


def preferences_table(form: dict, artifacts: dict[str, Path]) -> Table:
    """Pairs, ties and triplets per style; of the pairs that neither of two styles ties, the share ordered alike.

    Two users of a style judge a test pair, one of them unseen in training.
    """
    table, columns = Table(), ("pairs", "ties", "train", "validation", "test")
    for experiment in form["experiments"]:
        folder = artifacts[f"preferences:{experiment}"]
        counts, agreement = pd.read_csv(folder / "counts.csv"), pd.read_csv(folder / "agreement.csv")
        alike = {
            (a, b): v for x, y, v in agreement[["style", "other", "agreement"]].values for a, b in ((x, y), (y, x))
        }
        for found in counts.to_dict("records"):
            style, row = found["style"], table.row(experiment, experiment=experiment)
            row.label("Experiment", in_words(experiment))
            row.label("Style", in_words(style))
            figures = {name: (name.capitalize(), found[name], 0) for name in columns}
            for other in counts["style"]:
                heading, value = f"Agrees with {in_words(other)}", alike.get((style, other), np.nan)
                figures[f"agrees with {other}"] = heading, value, 3
            for figure, (heading, value, digits) in figures.items():
                line = {"experiment": experiment, "style": style, "figure": figure, "value": value}
                itself = figure == f"agrees with {style}"
                row.number(heading, number(value, digits), [] if itself else [line], column=figure)
    return table
