"""The numbers of the tables, worked by hand on three prompts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mixdpo.paper import alignment_table, paper, rewards_table, samples, validity_table

ROOT = Path(__file__).parent.parent
TABLE = {
    "experiment": "e",
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
        frame = pd.DataFrame({"prompt_id": [0, 1, 2], "sample": 0})
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
    """DPO's means per prompt over seeds are (2, 3, 7): mean 4, SD √7, SE √(7/3). Both seeds have mean 4: spread 0."""
    cells, grid = rewards_table(TABLE, artifacts)
    dpo = cells[cells["row"] == "DPO"]
    assert dpo["mean"].tolist() == [4.0, 4.0] and dpo["published_where"].tolist() == ["A", "B"]
    assert dpo["se"].iloc[0] == pytest.approx(np.sqrt(7 / 3))
    assert (dpo["prompts"].iloc[0], dpo["seeds"].iloc[0], dpo["seed_sd"].iloc[0]) == (3, 2, 0.0)
    reference = cells[cells["row"] == "Reference"].iloc[0]
    assert (reference["mean"], reference["se"]) == (2.0, pytest.approx(1 / np.sqrt(3)))
    assert np.isnan(reference["seed_sd"]) and np.isnan(reference["published_mean"])
    assert grid.iloc[1]["Joy"] == "4.000 ± 1.528 (seeds 0.000)"
    assert grid.iloc[1]["Joy, published"] == "0.500 ± 0.100; 0.600 ± 0.200"


def test_alignment_table(artifacts):
    """Reference mean 2 and SD 1: gains per prompt (2, 3, 7) − (1, 2, 3) = (1, 1, 4), mean 2, SE 1; KL 1.5 nats."""
    cells, grid = alignment_table(TABLE, artifacts)
    dpo = cells[cells["row"] == "DPO"].set_index("column")
    assert dpo.loc["gain", ["mean", "se"]].tolist() == pytest.approx([2.0, 1.0])
    assert dpo.loc["gain in joy", "mean"] == pytest.approx(2.0)
    assert dpo.loc["kl", ["mean", "se"]].tolist() == [1.5, 0.0]
    assert dpo.loc["tokens", "mean"] == 2.0
    assert grid["Mean gain / SE"].tolist() == ["–", "2.0"]


def test_validity_table_prints_the_bar(tmp_path):
    rows = [("joy", text, "a test", "AUC", value, 9) for text, value in (("whole review", 0.93), ("crop", 0.81))]
    columns = ["reward", "text", "test", "metric", "value", "n"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "validity.csv", index=False)
    cells, grid = validity_table({"bars": {"joy": 0.9}}, {"validity": tmp_path})
    assert cells["bar"].tolist() == [0.9, pytest.approx(np.nan, nan_ok=True)]
    assert grid.iloc[0].to_dict() == {
        "Reward": "joy",
        "Test": "a test",
        "Metric": "AUC",
        "Whole review": "0.930",
        "Aim": "≥ 0.90",
        "Crop": "0.810",
        "n (whole, crop)": "9, 9",
    }


def test_files_are_legible(tmp_path, artifacts, runtime):
    published = tmp_path / "joy.yaml"
    published.write_text(yaml.safe_dump(TABLE | {"kind": "alignment", "title": "T", "where": "ours"}))
    paper(tmp_path, {"table": "joy"}, runtime=runtime, resume=tmp_path, published=published, **artifacts)
    assert (tmp_path / "joy.md").read_text().startswith("**T** (ours)")
    tex = (tmp_path / "joy.tex").read_text()
    assert not set("πσ±‖≥–") & set(tex.partition("\n")[2]) and r"$\pm$" in tex


@pytest.mark.parametrize(("run", "sentiment"), [("embedded", 0.95), ("reviews", 0.90)])
def test_committed_tables_meet_their_aims(run, sentiment):
    """What the README prints: every reward is valid on whole reviews, and DPO gains at least 5 SE."""
    folder = ROOT / "paper_tables" / run
    validity = pd.read_csv(folder / "validity.csv").dropna(subset="bar")
    assert len(validity) == 5 and (validity["value"] >= validity["bar"]).all()
    assert validity.set_index("reward")["value"]["sentiment"] >= sentiment
    gain = pd.read_csv(folder / "alignment.csv").query("row == 'Baseline DPO' and column == 'gain'").iloc[0]
    assert gain["mean"] >= 5 * gain["se"]


@pytest.mark.parametrize("run", ["embedded", "reviews"])
@pytest.mark.parametrize("table", ["table1", "alignment"])
def test_readme_prints_the_committed_tables(run, table):
    assert (ROOT / f"paper_tables/{run}/{table}.md").read_text() in (ROOT / "README.md").read_text()
