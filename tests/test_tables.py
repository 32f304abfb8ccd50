"""The numbers of the tables, worked by hand on three prompts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import shown
from planted import whole

from mixdpo.paper.rewards import alignment_table, best_experts_table, rewards_table
from mixdpo.paper.runs import compute_table, gates_table, perplexity_table, preferences_table, validity_table
from mixdpo.paper.scores import head_order, samples
from mixdpo.paper.tables import tables
from mixdpo.provenance.record import facts, processor_time
from mixdpo.run.config import methods_of

ROOT = Path(__file__).parent.parent
TABLE = {
    "experiment": "e",
    "baseline": "reference",
    "columns": {"joy": "Joy"},
    "rewards": ["joy"],
    "rows": [
        {"name": "Reference", "policy": "reference"},
        {
            "name": "DPO",
            "policy": "dpo",
            "published": {"joy": [{"mean": 0.5, "se": 0.1, "where": "A"}, {"mean": 0.6, "se": 0.2, "where": "B"}]},
        },
    ],
}


@pytest.fixture
def artifacts(tmp_path):
    """Scores per prompt: reference (1, 2, 3); DPO seed 0 (2, 4, 6), seed 1 (2, 2, 8)."""
    scores = {"reference": [1, 2, 3], "dpo/seed0": [2, 4, 6], "dpo/seed1": [2, 2, 8]}
    folders = {}
    for policy, joy in scores.items():
        frame = pd.DataFrame({"prompt_id": [0, 1, 2], "sample": 0, "decoding": "token"})
        for stage in ("completions", "rewards"):
            folders[f"{stage}:{policy}"] = tmp_path / policy / stage
            folders[f"{stage}:{policy}"].mkdir(parents=True)
        frame.assign(joy=[float(j) for j in joy]).to_parquet(folders[f"rewards:{policy}"] / "scores.parquet")
        ratio = 0.0 if policy == "reference" else 1.5
        frame.assign(
            completion_ids=[[1, 2], [1, 2, 3], [1]], log_prob=-2.0 + ratio, reference_log_prob=-2.0
        ).to_parquet(folders[f"completions:{policy}"] / "completions.parquet")
    return folders


def test_samples_pool_the_seeds(artifacts):
    assert samples(artifacts, "dpo").groupby("seed")["joy"].mean().to_dict() == {"0": 4.0, "1": 4.0}


def test_rewards_table(artifacts):
    """DPO's means per prompt over seeds are (2, 3, 7): mean 4, variance 7, of which the noise of (0, ±1, ∓1) is 1: SE √(6/3).

    Both seeds have mean 4: spread 0, and no part of the SE.
    """
    table = rewards_table(TABLE, artifacts)
    cells, grid = table.numbers(), shown(table)
    dpo = cells[cells["row"] == "DPO"]
    assert dpo["mean"].tolist() == [4.0, 4.0] and dpo["published_where"].tolist() == ["A", "B"]
    assert dpo["se"].iloc[0] == pytest.approx(np.sqrt(6 / 3))
    assert (dpo["prompts"].iloc[0], dpo["seeds"].iloc[0], dpo["seed_sd"].iloc[0]) == (3, 2, 0.0)
    reference = cells[cells["row"] == "Reference"].iloc[0]
    assert (reference["mean"], reference["se"]) == (2.0, pytest.approx(1 / np.sqrt(3)))
    assert np.isnan(reference["seed_sd"]) and np.isnan(reference["published_mean"])
    assert grid.iloc[1]["Joy"] == "4.000 ± 1.414 (seeds 0.000)"
    assert grid.iloc[1]["Joy, published"] == "0.500 ± 0.100 (A); 0.600 ± 0.200 (B)"


def test_nested_numbers_are_ours_by_row_and_column(artifacts):
    """Two published values of a cell, hence two lines of it, are one number of ours; what is not known is left out."""
    numbers = rewards_table(TABLE, artifacts).nested()
    assert numbers["DPO"] == {
        "joy": {"mean": 4.0, "se": pytest.approx(np.sqrt(2)), "prompts": 3, "seeds": 2, "seed_sd": 0.0}
    }
    assert numbers["Reference"]["joy"].keys() == {"mean", "se", "prompts", "seeds"}
    assert numbers == json.loads(json.dumps(numbers))


def test_alignment_table(artifacts):
    """Reference mean 2 and SD 1: gains per prompt (2, 3, 7) − (1, 2, 3) = (1, 1, 4), mean 2, variance 3, of which noise 1: SE √(2/3); KL 1.5."""
    table = alignment_table(TABLE, artifacts)
    cells, grid = table.numbers(), shown(table)
    dpo = cells[cells["row"] == "DPO"].set_index("column")
    assert dpo.loc["gain", ["mean", "se"]].tolist() == pytest.approx([2.0, np.sqrt(2 / 3)])
    assert dpo.loc["gain in joy", "mean"] == pytest.approx(2.0)
    assert dpo.loc["kl", ["mean", "se"]].tolist() == [1.5, 0.0]
    assert dpo.loc["tokens", "mean"] == 2.0
    assert grid["Mean gain / SE"].tolist() == ["–", "2.4"]


@pytest.fixture
def mixtures(tmp_path, artifacts):
    """Two seeds of K = 2 over two domains. Expert 0 of seed 0 and expert 1 of seed 1 take the style s.

    Joy per prompt: seed 0 expert0 (1, 1, 1), expert1 (5, 6, 7); seed 1 expert0 (7, 8, 9), expert1 (3, 3, 3).
    """
    joys = {0: [[1, 1, 1], [5, 6, 7]], 1: [[7, 8, 9], [3, 3, 3]]}
    for seed, experts in joys.items():
        policy = f"mix/seed{seed}"
        folders = {stage: tmp_path / policy / stage for stage in ("completions", "rewards", "policies")}
        prompts = pd.DataFrame({"prompt_id": [0, 1, 2], "domain": ["movie", "movie", "book"]})
        rows = [
            prompts.assign(sample=0, decoding=f"expert{k}", joy=[float(j) for j in joy])
            for k, joy in enumerate(experts)
        ]
        frame = pd.concat(rows)
        weights = prompts.assign(w0=[0.9, 0.2, 0.3], w1=[0.1, 0.8, 0.7])
        q = pd.DataFrame({"style": ["s", "s", "t", "t"], "domain": "movie", "pair": [0, 1, 0, 1]})
        q = q.assign(prompt=q["pair"], q0=[0.8, 0.7, 0.4, 0.1])
        q = q.assign(q1=1 - q["q0"])
        if seed == 1:
            q = q.rename(columns={"q0": "q1", "q1": "q0"})
        for folder in folders.values():
            folder.mkdir(parents=True)
        frame[["prompt_id", "sample", "decoding", "joy"]].to_parquet(folders["rewards"] / "scores.parquet")
        frame.drop(columns="joy").to_parquet(folders["completions"] / "completions.parquet")
        weights.to_parquet(folders["completions"] / "weights.parquet")
        whole(q).to_parquet(folders["policies"] / "responsibilities.parquet")
        artifacts |= {f"{stage}:{policy}": folder for stage, folder in folders.items()}
    return artifacts


def test_heads_of_further_seeds_are_matched_to_the_first(mixtures):
    assert head_order(mixtures, "mix") == {"mix/seed0": [0, 1], "mix/seed1": [1, 0]}
    assert samples(mixtures, "mix", "expert0").groupby("seed")["joy"].mean().to_dict() == {"0": 1.0, "1": 3.0}


def test_sparse_takes_the_expert_of_the_largest_weight(mixtures):
    """w0 leads on the first prompt only: seed 0 gives (1, 6, 7), seed 1 (7, 3, 3)."""
    frame = samples(mixtures, "mix", "sparse")
    assert frame.sort_values(["seed", "prompt_id"])["joy"].tolist() == [1, 6, 7, 7, 3, 3]


def test_columns_by_domain(mixtures):
    """Expert 0 has 1 and 3 on every prompt: mean 2, SE of two seeds √2/√2; two prompts are of movies, one of books."""
    row = {"name": "Head 0", "policy": "mix", "decoding": "expert0"}
    form = {"experiment": "e", "reward": "joy", "columns": {"movie": "Movie", "book": "Book"}, "rows": [row]}
    table = rewards_table(form, mixtures)
    cells, grid = table.numbers(), shown(table)
    assert [(cell.column, cell.domain) for cell in table.cells()[0]][1:3] == [("movie", "movie"), ("book", "book")]
    assert cells[["column", "mean", "prompts"]].values.tolist() == [["movie", 2.0, 2], ["book", 2.0, 1]]
    assert grid.loc[0, "Movie"] == "2.000 ± 1.000 (seeds 1.414)"


def test_best_experts_table(mixtures):
    """Expert 1 has (5 + 7)/2, (6 + 8)/2, (7 + 9)/2 = (6, 7, 8); DPO (2, 3, 7): gains (4, 4, 1), mean 3.

    Seeds gain 2 and 4, SE 1; prompts have variance 3, noise 1: SE √(1 + 2/3). The largest margin is expert 0's on both
    triplets of s and expert 1's on both of t (seed 1 the other way round): all recovered, half by chance.
    """
    form = {
        "experiment": "e",
        "baseline": "dpo",
        "columns": {"joy": "Joy"},
        "rows": [{"name": "Mix", "policy": "mix", "ceiling": "mix"}],
    }
    table = best_experts_table(form, mixtures)
    assert methods_of({"rows": [{"policy": "mix", "ceiling": "taught"}]}, "e") == ["mix", "taught"]
    cells, grid = table.numbers(), shown(table)
    best = cells[cells["column"] == "joy"].iloc[0]
    assert (best["expert"], best["mean"], best["se"]) == ("Expert 1", pytest.approx(3.0), pytest.approx(np.sqrt(5 / 3)))
    assert grid.loc[0, "Joy"] == "Expert 1: +3.000 ± 1.291 (+2.3 SE)"
    assert [cell.decoding for cell in table.cells()[0]] == [None] * 5 + ["expert1"]
    recovered = cells[cells["column"] == "recovered"].iloc[0]
    assert recovered[["mean", "se", "chance"]].tolist() == [1.0, 0.0, 0.5]
    assert grid.loc[0, ["Style recovered", "by heads taught their style"]].tolist() == ["1.000 ± 0.000"] * 2
    assert -1 <= float(grid.loc[0, "Correlation of margins"].replace("−", "-")) < 1


def test_gates_table(tmp_path, mixtures):
    """The gate sends prompt 0 to movies, 1 and 2 to books: right on the first and the last of movie, movie, book."""
    pd.DataFrame({"split": ["train"], "prompts": [100], "accuracy": [0.8]}).to_csv(tmp_path / "accuracy.csv")
    form = {"experiment": "e", "domains": ["movie", "book"], "rows": [{"name": "Gate", "policy": "mix"}]}
    form["published"] = {"After pretraining": "about 0.65"}
    table = gates_table(form, mixtures | {"gates:e": tmp_path})
    cells, grid = table.numbers(), shown(table)
    assert cells["mean"].tolist() == pytest.approx([0.8, 2 / 3]) and cells["se"].iloc[0] == pytest.approx(0.04)
    assert grid["Accuracy"].iloc[0] == "0.800 ± 0.040" and grid["Accuracy, published"].tolist() == ["about 0.65", ""]


def test_validity_table_prints_the_bar(tmp_path):
    rows = [("joy", text, "a test", "AUC", value, 9) for text, value in (("whole review", 0.93), ("crop", 0.81))]
    columns = ["reward", "text", "test", "metric", "value", "n"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "validity.csv", index=False)
    table = validity_table({"bars": {"joy": 0.9}}, {"validity": tmp_path})
    cells, grid = table.numbers(), shown(table)[[*table.headings]]
    assert cells["bar"].tolist() == [0.9, 0.9]
    assert grid.iloc[0].to_dict() == {
        "Reward": "joy",
        "Test": "a test",
        "Metric": "AUC",
        "Whole review": "0.930",
        "Crop": "0.810",
        "Aim": "≥ 0.90",
        "Reached by": "whole reviews alone",
        "n (whole, crop)": "9, 9",
    }


def test_files_are_legible(tmp_path, artifacts, runtime):
    published = tmp_path / "joy.yaml"
    published.write_text(yaml.safe_dump(TABLE | {"kind": "alignment", "title": "T", "where": "ours"}))
    tables(tmp_path, {"table": "joy"}, runtime=runtime, resume=tmp_path, published=published, **artifacts)
    assert (tmp_path / "joy.md").read_text().startswith("**T** (ours)")
    tex = (tmp_path / "joy.tex").read_text()
    assert not set("πσ±‖≥–") & set(tex.partition("\n")[2]) and r"$\pm$" in tex


def test_a_table_made_again_reads_its_files_anew(tmp_path, artifacts, runtime):
    """An audit makes many tables in one process."""
    published, printed = tmp_path / "joy.yaml", []
    published.write_text(yaml.safe_dump(TABLE | {"kind": "alignment", "title": "T", "where": "ours"}))
    scores = artifacts["rewards:dpo/seed0"] / "scores.parquet"
    for more in (0.0, 10.0):
        frame = pd.read_parquet(scores)
        frame.assign(joy=frame["joy"] + more).to_parquet(scores)
        tables(tmp_path, {"table": "joy"}, runtime=runtime, resume=tmp_path, published=published, **artifacts)
        printed.append((tmp_path / "joy.csv").read_text())
    assert printed[0] != printed[1]


@pytest.mark.parametrize(("run", "sentiment"), [("embedded", 0.95), ("reviews", 0.90)])
def test_committed_tables_meet_their_aims(run, sentiment):
    """What the README prints: every reward is valid on whole reviews, and DPO gains at least 5 SE."""
    folder = ROOT / "paper_tables" / run
    validity = pd.read_csv(folder / "validity.csv").query("text == 'whole review'")
    assert len(validity) == 5 and (validity["value"] >= validity["bar"]).all()
    assert validity.set_index("reward")["value"]["sentiment"] >= sentiment
    gain = pd.read_csv(folder / "alignment.csv").query("row == 'Baseline DPO' and column == 'gain'").iloc[0]
    assert gain["mean"] >= 5 * gain["se"]


def test_compute_table(tmp_path):
    """Two jobs of one stage, 2 s and 5 s of the processor; one of another stage, of which there is no record."""
    artifacts = {}
    for name, stage in ("sft/a", "sft"), ("sft/b", "sft"), ("assets/base", "base"):
        artifacts[name] = tmp_path / name
        artifacts[name].mkdir(parents=True)
        (artifacts[name] / "manifest.json").write_text(json.dumps({"stage": stage}))
    for name, cpu, seconds, memory in ("sft/a", 2.0, 9.0, 100), ("sft/b", 5.0, 3.0, 300):
        artifacts[f"record:{name}"] = tmp_path / f"{seconds}.json"
        record = {"device": "cpu", "processor": "P", "cpu_seconds": cpu, "seconds": seconds, "peak_memory_mib": memory}
        artifacts[f"record:{name}"].write_text(json.dumps(record))
    table = compute_table({}, artifacts)
    values, grid = table.numbers().pivot(index="row", columns="column", values="value"), shown(table)[[*table.headings]]
    sft = {"jobs": 2, "cpu seconds": 7.0, "wall seconds": 12.0, "peak memory": 300.0, "unrecorded": 0}
    assert values.loc["sft"].to_dict() == sft
    assert values.loc["all", ["jobs", "cpu seconds", "unrecorded"]].tolist() == [3, 7.0, 1]
    assert grid["Stage"].tolist() == ["base", "sft", "all"]
    assert grid.iloc[0].tolist() == ["base", "1", "–", "–", "–", "", "1"] and grid.iloc[1]["Device"] == "cpu (P)"


def test_run_record_has_the_time_of_the_processor():
    """A busy tenth of a second is that for the clock and the processor; a child counts as well, sleep does not."""
    used = processor_time()
    start = time.process_time()
    while time.process_time() < start + 0.1:
        pass
    busy = "import time\nwhile time.process_time() < 0.2: pass\ntime.sleep(0.3)"
    subprocess.run([sys.executable, "-c", busy], check=True)
    record = facts({"device": "cpu", "precision": "fp32", "threads": 1}, time.time(), used)
    assert 0.28 < record["cpu_seconds"] < 0.28 + 0.25


def test_names_are_printed_in_words(tmp_path):
    """`multi_user` and `instruction_following` stay in the csv."""
    lines = {"domain": ["instruction"], "reviews": 9, "before": [1707.0], "after": [1.5]}
    pd.DataFrame(lines).to_csv(tmp_path / "perplexity.csv", index=False)
    form = {"experiments": ["multi_user"]}
    table = perplexity_table(form, {"sft:multi_user": tmp_path})
    assert shown(table).iloc[0, :3].tolist() == ["users", "instruction", "1,707.00"]
    assert table.csv() == "experiment,domain,reviews,before,after\nmulti_user,instruction,9,1707.0,1.5\n"
    counts = {
        "style": ["honesty", "instruction_following"],
        "pairs": 6,
        "ties": 1,
        "train": 3,
        "validation": 1,
        "test": 1,
    }
    pd.DataFrame(counts).to_csv(tmp_path / "counts.csv", index=False)
    agreement = {"style": ["honesty"], "other": ["instruction_following"], "pairs": 4, "agreement": 0.25}
    pd.DataFrame(agreement).to_csv(tmp_path / "agreement.csv", index=False)
    grid = shown(preferences_table(form, {"preferences:multi_user": tmp_path}))
    assert grid["Style"].tolist() == ["honesty", "instruction following"]
    assert grid["Agrees with instruction following"].tolist() == ["0.250", "–"]
