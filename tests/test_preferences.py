"""Every pair is compared once per style; ties are dropped and counted; datasets reads the files."""

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from mixdpo.errors import UserError
from mixdpo.method.language import TokenBatch, load_language_model, sequence_log_probs
from mixdpo.stages.preferences import (
    annotators_of,
    compare,
    preferences,
    splits_of,
    style_agreement,
    write_preferences,
)


def frames(prompts=40, samples=2):
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
        for s in range(samples)
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


def test_every_pair_of_samples_is_compared():
    completions, scores = frames(prompts=3, samples=4)
    table = compare(completions.merge(scores, on=["prompt_id", "sample"]), ["up"])
    assert sorted(table["pair"].unique()) == ["0-1", "0-2", "0-3", "1-2", "1-3", "2-3"] and len(table) == 18
    assert (table["chosen"].str[-1] == table["pair"].str[-1]).all() and (
        table["rejected"].str[-1] == table["pair"].str[0]
    ).all()


def write(tmp_path, styles, runtime):
    completions, scores = frames()
    for name in ("c", "r", "out"):
        (tmp_path / name).mkdir()
    completions.to_parquet(tmp_path / "c/completions.parquet")
    scores.to_parquet(tmp_path / "r/scores.parquet")
    spec = {"styles": styles, "validation_share": 0.25, "test_share": 0.1, "annotators": [2, 5], "seed": 0}
    preferences(
        tmp_path / "out", spec, runtime=runtime, resume=tmp_path, completions=tmp_path / "c", rewards=tmp_path / "r"
    )
    return tmp_path / "out"


def test_datasets_reads_the_splits(tmp_path, runtime):
    out = write(tmp_path, ["up", "some"], runtime)
    data = datasets.load_dataset("parquet", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert set(data) == {"train", "validation", "test"}
    columns = {"prompt", "chosen", "rejected", "style", "domain", "pair", "annotator_2", "annotator_5"}
    assert columns <= set(data["train"].column_names)
    prompts = [set(data[split]["prompt"]) for split in ("train", "validation", "test")]
    assert [len(part) for part in prompts] == [26, 10, 4] and len(set.union(*prompts)) == 40
    counts = pd.read_csv(out / "counts.csv").set_index("style")
    assert counts.loc["some", "ties"] == 30 and counts.loc["up", "ties"] == 0
    assert counts[["ties", "train", "validation", "test"]].sum(axis=1).tolist() == counts["pairs"].tolist() == [40, 40]


def test_nothing_but_ties_is_one_line(tmp_path, runtime, monkeypatch):
    completions, scores = frames()
    scores["flat"] = 0.0
    monkeypatch.setattr(f"{__name__}.frames", lambda: (completions, scores))
    numbers = "0 for train, 0 for validation, 0 for test"
    with pytest.raises(UserError, match=rf"expected preferences, found {numbers} beside 40 ties; give it more prompts"):
        write(tmp_path, ["flat"], runtime)


def test_a_user_of_few_prompts_is_trained_with(tmp_path):
    """Whatever the seed, nobody is met in validation alone: a gate knows the users of training only."""
    users = ["rare" if i in (3, 4) else "frequent" for i in range(10)]
    row = {"style": "up", "pair": "0-1", "swapped": False, "tie": False}
    comparisons = pd.DataFrame([{"prompt_id": i, "user": user, **row} for i, user in enumerate(users)])
    for seed in range(20):
        comparisons["split"] = splits_of(comparisons, {"validation": 0.8}, seed)
        write_preferences(tmp_path, comparisons, ["train", "validation"], tmp_path)
        train, validation = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("train", "validation"))
        assert set(train["user"]) == {"rare", "frequent"} and len(validation) == 8


def test_annotators_have_one_style_and_as_many_triplets_as_asked():
    rng = np.random.default_rng(0)
    parts = {("train", "up"): 41, ("train", "down"): 30, ("test", "up"): 7, ("test", "down"): 5}
    rows = [key for key, n in parts.items() for _ in range(n)]
    triplets = pd.DataFrame(rows, columns=["split", "style"]).sample(frac=1, random_state=0)
    triplets.index = rng.permutation(len(triplets)) + 100
    names = annotators_of(triplets, 5, seed=3)
    assert names.index.sort_values().equals(triplets.index.sort_values())
    groups = triplets.join(names.rename("annotator")).groupby("annotator")
    assert (groups[["split", "style"]].nunique() == 1).all(axis=None)
    made = groups.agg(split=("split", "first"), style=("style", "first"), n=("style", "size"))
    assert sorted(made["n"]) == [1, 2] + [5] * 16
    assert sorted(made.index) == [f"annotator-{i:05}" for i in range(18)]
    in_train = (made["split"] == "train").to_numpy()
    assert (
        in_train[:15].sum() < 15 and (made["style"][in_train] != made["style"][in_train].sort_values().to_numpy()).any()
    )
    assert annotators_of(triplets, 5, seed=3).equals(names) and not annotators_of(triplets, 5, seed=4).equals(names)
    first, second = (np.flatnonzero(names.to_numpy() == names.iloc[i]) for i in (0, 1))
    assert np.diff(first).max() > 1 or np.diff(second).max() > 1, "dealt in the order of the rows"


def test_every_triplet_has_annotators_of_its_own_split(tmp_path, runtime):
    out = write(tmp_path, ["up", "some"], runtime)
    parts = {split: pd.read_parquet(out / f"{split}.parquet") for split in ("train", "validation", "test")}
    for column, m in ("annotator_2", 2), ("annotator_5", 5):
        names = [set(part[column]) for part in parts.values()]
        assert len(set.union(*names)) == sum(map(len, names))
        for part in parts.values():
            assert part.groupby(column)["style"].nunique().eq(1).all()
            sizes = part.groupby(["style", column]).size()
            assert sizes.max() <= m and (sizes < m).groupby("style").sum().max() <= 1


def test_log_probs_stand_beside_every_file(preferences_folder, model_folder, runtime):
    model = load_language_model(model_folder, runtime)
    for split, rows in ("train", 30), ("validation", 12), ("test", 12):
        frame, known = (
            pd.read_parquet(preferences_folder / f"{stage}/{split}.parquet")
            for stage in ("preferences", "reference_log_probs")
        )
        assert len(known) == rows
        for side in ("chosen", "rejected"):
            batch = TokenBatch.of(frame["prompt_ids"].tolist(), frame[f"{side}_ids"].tolist(), "cpu")
            with torch.no_grad():
                alone = sequence_log_probs(model, batch).tolist()
            assert known[side].tolist() == pytest.approx(alone, abs=1e-3)
