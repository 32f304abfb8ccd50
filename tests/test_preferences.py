"""Every pair is compared once per style; ties are dropped and counted; datasets reads the files."""

import datasets
import pandas as pd
import pytest

from mixdpo.errors import UserError
from mixdpo.stages.preferences import compare, preferences, style_agreement, write_preferences


def frames(prompts=40):
    rows = [
        {
            "prompt_id": p,
            "sample": s,
            "domain": "movie",
            "prompt": f"p{p}",
            "completion": f" c{p}-{s}",
            "prompt_ids": [p],
            "completion_ids": [p, s],
        }
        for p in range(prompts)
        for s in (0, 1)
    ]
    completions = pd.DataFrame(rows)
    scores = completions[["prompt_id", "sample"]].copy()
    scores["up"] = scores["sample"].astype(float)  # always prefers the second
    scores["down"] = -scores["up"]  # always the first
    scores["some"] = scores["up"] * (scores["prompt_id"] % 4 == 0)  # ties on three of four prompts
    return completions, scores


def test_compare():
    completions, scores = frames()
    table = compare(completions.merge(scores, on=["prompt_id", "sample"]), ["up", "down", "some"])
    assert len(table) == 120 and table["tie"].sum() == 30
    assert table.loc[table["style"] == "up", "chosen"].str.endswith("-1").all()
    assert table.loc[table["style"] == "down", "chosen"].str.endswith("-0").all()
    untied = table[~table["tie"]]
    assert (untied["chosen_score"] > untied["rejected_score"]).all()
    for row in table.itertuples():
        assert row.chosen != row.rejected
        assert row.chosen == f" c{row.chosen_ids[0]}-{row.chosen_ids[1]}"
    agreement = style_agreement(table).set_index(["style", "other"])["agreement"]
    assert agreement["down", "up"] == 0 and agreement["some", "up"] == 1


def write(tmp_path, styles, runtime):
    completions, scores = frames()
    for name in ("c", "r", "out"):
        (tmp_path / name).mkdir()
    completions.to_parquet(tmp_path / "c/completions.parquet")
    scores.to_parquet(tmp_path / "r/scores.parquet")
    spec = {"styles": styles, "validation_share": 0.25, "seed": 0}
    preferences(
        tmp_path / "out", spec, runtime=runtime, resume=tmp_path, completions=tmp_path / "c", rewards=tmp_path / "r"
    )
    return tmp_path / "out"


def test_datasets_reads_the_splits(tmp_path, runtime):
    out = write(tmp_path, ["up", "some"], runtime)
    data = datasets.load_dataset("parquet", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert set(data) == {"train", "validation"}
    assert {"prompt", "chosen", "rejected", "style", "domain"} <= set(data["train"].column_names)
    assert not set(data["train"]["prompt_id"]) & set(data["validation"]["prompt_id"])
    counts = pd.read_csv(out / "counts.csv").set_index("style")
    assert counts.loc["some", "ties"] == 30 and counts.loc["up", "ties"] == 0
    assert counts[["ties", "train", "validation"]].sum(axis=1).tolist() == counts["pairs"].tolist() == [40, 40]


def test_nothing_but_ties_is_one_line(tmp_path, runtime, monkeypatch):
    completions, scores = frames()
    scores["flat"] = 0.0
    monkeypatch.setattr(f"{__name__}.frames", lambda: (completions, scores))
    with pytest.raises(UserError, match=r"found 0 and 0 beside 40 ties; give it more prompts"):
        write(tmp_path, ["flat"], runtime)


def test_a_user_of_few_prompts_is_trained_with(tmp_path):
    """Whatever the seed, nobody is met in validation alone: a gate knows the users of training only."""
    users = ["rare" if i in (3, 4) else "frequent" for i in range(10)]
    row = {"style": "up", "pair": "0-1", "swapped": False, "tie": False}
    comparisons = pd.DataFrame([{"prompt_id": i, "user": user, **row} for i, user in enumerate(users)])
    for seed in range(20):
        write_preferences(tmp_path, comparisons, {"validation_share": 0.8, "seed": seed}, tmp_path)
        train, validation = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("train", "validation"))
        assert set(train["user"]) == {"rare", "frequent"} and len(validation) == 8
