"""A judge learned from ratings: it finds what the ratings say, in answers to instructions that it never saw."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import shown

from mixdpo.data.feedback import columns
from mixdpo.data.statistics import mean_and_se
from mixdpo.errors import UserError
from mixdpo.paper.runs import judge_validity_table
from mixdpo.run.config import published
from mixdpo.run.graph import inputs_of, job, table_inputs, targets
from mixdpo.run.layout import PUBLISHED
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped
from mixdpo.stages.judgements import judgements
from mixdpo.stages.rating_classifier import jackknife, marks, rating_classifier, scores, validity

ASPECTS = ["clarity", "politeness"]
CLEAR, POLITE = ["yes", "no", "never"], ["please", "thanks", "kindly"]
JUDGE = {"kind": "rating", "rating": {"scorer": "classifier", "path": None}}


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """Every response has a clear or a vague word, and a polite or a rude one: 1 to 4 and 2 or 3, as people rate."""
    folder, rng, rows = tmp_path_factory.mktemp("feedback"), np.random.default_rng(0), []
    for number in range(60):
        for clear, polite in rng.integers(2, size=(6, 2)):
            words = [rng.choice(CLEAR if clear else ["perhaps", "maybe", "somehow"])]
            words += [rng.choice(POLITE if polite else ["silly", "stupid", "fool"]), rng.choice(list("abcdef"))]
            text = " ".join(rng.permutation(words))
            rated = [float(rng.choice([3, 4] if clear else [1, 2])), 3.0 if polite else 2.0]
            split = "test" if number >= 40 else "train"
            rows.append((number, f"Is {number} a number?", text, "model", *rated, split))
    pd.DataFrame(rows, columns=columns(ASPECTS)).to_parquet(folder / "feedback.parquet")
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, ratings, runtime):
    out = tmp_path_factory.mktemp("classifier")
    rating_classifier(out, {"aspects": ASPECTS}, runtime=runtime, resume=out, feedback=ratings)
    return out


def test_what_is_counted_in_a_text():
    found = marks(("Is it so?", "No, it is."))
    assert {"no", "no ,", "it is .", "is|no", "is it|.", "length|5", "overlap|2"} <= {*found}
    assert marks(("Is it so?", "")) == ["length|0", "overlap|0"]


def test_each_aspect_has_its_own_classifier(classifier):
    texts = [("Is 99 a number?", text) for text in ("yes stupid", "maybe please", "maybe stupid", "yes please")]
    given = scores(texts, ASPECTS, classifier)
    assert (np.sign(given["clarity"]) == [1, -1, -1, 1]).all()
    assert (np.sign(given["politeness"]) == [-1, 1, -1, 1]).all()


def test_validity_is_measured_on_test_instructions(classifier, ratings):
    table = pd.read_csv(classifier / "validity.csv").set_index(["aspect", "measure"])
    frame = pd.read_parquet(ratings / "feedback.parquet").query("split == 'test'")
    right = table.loc[("clarity", "pairs ordered rightly"), "value"]  # 3 against 4, 1 against 2: by chance
    assert 0.6 < right < 0.95 < table["value"].drop(("clarity", "pairs ordered rightly")).min()
    assert table.loc[("politeness", "AUC"), ["value", "n"]].tolist() == [1.0, len(frame)]
    values = [group["clarity"].to_numpy() for _, group in frame.groupby("prompt_id")]
    assert table.loc[("clarity", "pairs ordered rightly"), "n"] == sum((v[:, None] > v).sum() for v in values)


def test_validity_by_hand():
    """Of three untied pairs one is ordered wrongly and one tied; the ratings of the third question tie all."""
    frame = pd.DataFrame({"prompt_id": [0, 0, 1, 1, 1, 2, 2], "wit": [1.0, 5, 1, 1, 5, 5, 5]})
    auc, pairs = validity(frame, "wit", np.array([0.0, 1, 2, 3, 2, 4, 5]), middle=3)
    assert pairs["value"] == pytest.approx((1 + 0.5 + 0) / 3) and (pairs["n"], pairs["instructions"]) == (3, 2)
    assert auc["value"] == pytest.approx((1 + 1.5 + 3 + 3) / 12) and auc["n"] == 7


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.array([0.1, 0.7, 0.4, 0.9])
    frame = pd.DataFrame({"prompt": range(4), "right": values})
    assert jackknife(frame, lambda rows: rows["right"].mean()) == pytest.approx(mean_and_se(values)[1])
    assert np.isnan(jackknife(frame[:1], lambda rows: rows["right"].mean()))


def test_the_same_bytes_twice(classifier, ratings, runtime, tmp_path):
    rating_classifier(tmp_path, {"aspects": ASPECTS}, runtime=runtime, resume=tmp_path, feedback=ratings)
    for name in ("classifier.safetensors", "validity.csv"):
        assert (tmp_path / name).read_bytes() == (classifier / name).read_bytes()


def test_ratings_that_do_not_differ_are_one_line(ratings, runtime, tmp_path):
    frame = pd.read_parquet(ratings / "feedback.parquet").assign(politeness=3.0)
    frame.to_parquet(tmp_path / "feedback.parquet")
    with pytest.raises(UserError, match="training ratings of politeness that differ, found 3 in all 240") as error:
        rating_classifier(tmp_path, {"aspects": ASPECTS}, runtime=runtime, resume=tmp_path, feedback=tmp_path)
    assert "\n" not in str(error.value)


def test_it_judges_completions_by_the_style_of_the_user(classifier, runtime, tmp_path):
    """The policy is clear and rude, its opponent vague and polite: the user who likes clarity prefers the first."""
    for name, text in ("policy", "yes stupid"), ("other", "maybe please"):
        rows = [{"prompt_id": p, "user": p, "style": style, "completion": text} for p, style in enumerate(ASPECTS)]
        frame = pd.DataFrame(rows).assign(decoding="token", instruction="Is 99 a number?", completion_ids=[[0]] * 2)
        (tmp_path / name).mkdir()
        frame.to_parquet(tmp_path / name / "completions.parquet")
    folders = {"policy": tmp_path / "policy", "other": tmp_path / "other", "rating_classifier": classifier}
    judgements(tmp_path, {"judge": JUDGE}, runtime=runtime, resume=tmp_path, **folders)
    table = pd.read_parquet(tmp_path / "judgements.parquet")
    assert table["choice"].tolist() == ["win", "win", "loss", "loss"] and set(table["opponent"]) == {"other"}
    assert json.loads(table["answer"][1])[0] > 0 > json.loads(table["answer"][1])[1]


def test_only_a_run_that_is_judged_by_it_trains_it():
    plain, learned = (completed(shipped() | {"judge": judge}) for judge in ({}, {"rating": {"scorer": "classifier"}}))
    for config, there in (plain, False), (learned, True):
        tables = published(PUBLISHED, config)
        made = targets(config, tables)
        assert ("results/embedded/rating_classifier/manifest.json" in made) == there == ("judge_validity" in tables)
        judged = next(path for path in made if path.endswith("judgements/manifest.json"))
        assert ("rating_classifier" in inputs_of(config, tables, judged)) == there
    path = "results/embedded/rating_classifier/manifest.json"
    aspects = [*learned["assets"]["feedback"]["aspects"]]
    assert job(learned, tables, path) == ("rating_classifier", {"aspects": aspects})
    assert inputs_of(learned, tables, path) == {"feedback": "results/embedded/assets/feedback/manifest.json"}
    assert table_inputs(learned, tables, "judge_validity")["rating_classifier"] == path


def test_table(classifier):
    table = shown(judge_validity_table({}, {"rating_classifier": classifier}))
    assert table["Aspect"].tolist() == ["clarity", "clarity", "politeness", "politeness"]
    assert table["Value"][2] == "1.000 ± 0.000" and table["Instructions"][2] == "20"
