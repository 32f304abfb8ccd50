"""Tables in print: ours beside the published values, as csv (every digit), Markdown and LaTeX."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from tabulate import tabulate

from mixdpo.runtime import Runtime
from mixdpo.statistics import mean_and_se

LATEX = {"±": r"$\pm$", "σ": r"$\sigma$", "‖": r"$\|$", "π": r"$\pi$", "≥": r"$\ge$", "–": "--"}


def paper(out: Path, spec: dict, *, runtime: Runtime, resume: Path, published: Path, **artifacts: Path) -> None:
    """Write `TABLE.csv` with one row a cell, and `TABLE.md` and `TABLE.tex` as they are read.

    `artifacts` are named `stage:policy` or `stage:experiment`, as the table's kind needs them.
    """
    table = yaml.safe_load(published.read_text())
    cells, grid = KINDS[table["kind"]](table, artifacts)
    cells.to_csv(out / f"{spec['table']}.csv", index=False)
    for suffix, fmt in ("md", "github"), ("tex", "latex_booktabs"):
        text = tabulate(grid, headers="keys", tablefmt=fmt, showindex=False, disable_numparse=True, missingval="")
        if suffix == "tex":
            for sign, command in LATEX.items():
                text = text.replace(sign, command)
            (out / f"{spec['table']}.tex").write_text(f"% {table['title']}\n{text}\n")
        else:
            (out / f"{spec['table']}.md").write_text(f"**{table['title']}** ({table['where']})\n\n{text}\n")


def samples(artifacts: dict[str, Path], policy: str) -> pd.DataFrame:
    """Completions and rewards of a method's policies, every training seed: one row a completion, column seed."""
    frames = []
    for name, folder in artifacts.items():
        stage, _, which = name.partition(":")
        if stage == "completions" and which.split("/")[0] == policy:
            scores = pd.read_parquet(artifacts[f"rewards:{which}"] / "scores.parquet")
            frame = pd.read_parquet(folder / "completions.parquet").merge(
                scores, on=["prompt_id", "sample"], validate="1:1"
            )
            frames.append(frame.assign(seed=which.partition("/seed")[2]))
    return pd.concat(frames, ignore_index=True)


def per_prompt(frame: pd.DataFrame, column: str) -> pd.Series:
    """Mean over training seeds for each test prompt: what the standard error over prompts is taken of."""
    return frame.groupby("prompt_id")[column].mean()


def cell(row: str, column: str, frame: pd.DataFrame) -> dict:
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


def show(mean: float, se: float, digits: int = 3) -> str:
    return f"{mean:.{digits}f} ± {se:.{digits}f}"


def rewards_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows are policies, columns rewards; every published value is kept with the place where it is printed."""
    cells, grid = [], []
    for row in table["rows"]:
        frame, line = samples(artifacts, row["policy"]), {"Model": row["name"]}
        for column, heading in table["columns"].items():
            ours = cell(row["name"], column, frame)
            printed = row.get("published", {}).get(column, [])
            cells += [
                ours | {"published_mean": p["mean"], "published_se": p["se"], "published_where": p["where"]}
                for p in printed or [{"mean": np.nan, "se": np.nan, "where": ""}]
            ]
            spread = f" (seeds {ours['seed_sd']:.3f})" if ours["seeds"] > 1 else ""
            line[heading] = show(ours["mean"], ours["se"]) + spread
            line[f"{heading}, published"] = "; ".join(show(p["mean"], p["se"]) for p in printed)
        grid.append(line | {"n": ours["prompts"]})
    return pd.DataFrame(cells), pd.DataFrame(grid)


def alignment_table(table: dict, artifacts: dict[str, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gains over the reference in its own standard deviations, paired by prompt, beside KL(π ‖ π_ref) in nats.

    `gain` is the mean over the rewards of (score − reference mean) / reference SD; `gain in REWARD` is its part.
    """
    reference = samples(artifacts, "reference")
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
        own = figures(samples(artifacts, row["policy"]))
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
    cells = pd.concat(
        [
            pd.read_csv(artifacts[f"sft:{experiment}"] / "perplexity.csv").assign(experiment=experiment)
            for experiment in table["experiments"]
        ]
    )
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
    return pd.DataFrame(cells), pd.DataFrame(grid).replace("nan", "–")


KINDS = {
    "rewards": rewards_table,
    "alignment": alignment_table,
    "validity": validity_table,
    "perplexity": perplexity_table,
    "preferences": preferences_table,
}
"""Kind of table → function of its published form and the artifacts: (one row a cell, the grid as printed)."""
