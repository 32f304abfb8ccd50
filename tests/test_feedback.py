"""Rated responses: one form from every source, and an embedded world whose ratings are known and whose users disagree."""

import json
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixdpo.data.feedback import columns, read_feedback
from mixdpo.errors import UserError
from mixdpo.fields import merged
from mixdpo.run.checks import validate
from mixdpo.run.config import configuration
from mixdpo.run.config import spec as slice_of
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped
from mixdpo.stages.assets.embedded_feedback import embedded_feedback
from mixdpo.stages.assets.feedback import as_feedback, feedback
from mixdpo.stages.user_preferences import user_preferences
from mixdpo.world import feedback as world
from mixdpo.world.feedback import ASPECTS

RATED = Path(__file__).parents[2] / "shared/assets/truthfulqa/rated.parquet"
SPEC = {"source": "local", "test_share": 0.25, "seed": 0, "template": "{instruction}\n", "aspects": ASPECTS}
NONE = {"helpfulness": 1, "honesty": 3, "truthfulness": 3, "instruction_following": 3}
INSTRUCTION = "I need a letter about tea for my sister today."


def row(number=0, ratings=("5", "4", "3", "2"), responses=3, **changes):
    """A row as the hub has it; the ratings are those of its first response, the others have 3 throughout."""
    completions = [
        {
            "model": f"model-{i}",
            "response": f"Answer {number} {i}.",
            "custom_system_prompt": "",
            "annotations": {
                aspect: {"Rating": rated, "Rationale": "Because."}
                for aspect, rated in zip(ASPECTS, ratings if i == 0 else "3333")
            },
        }
        for i in range(responses)
    ]
    return {"source": "sharegpt", "instruction": f"Ask {number}?", "models": [], "completions": completions} | changes


def converted(tmp_path, runtime, rows, name="rows.jsonl"):
    """The artifact that a file with these rows becomes."""
    path, out = tmp_path / name, tmp_path / f"of {name}"
    out.mkdir()
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        pd.DataFrame(rows).to_parquet(path)
    feedback(out, SPEC | {"path": str(path)}, runtime=runtime, resume=tmp_path, file=path)
    return pd.read_parquet(out / "feedback.parquet"), json.loads((out / "counts.json").read_text())


def test_rows_become_responses_in_one_form(tmp_path, runtime):
    rows = [row(i) for i in range(8)]
    frame, counts = converted(tmp_path, runtime, rows)
    same, same_counts = converted(tmp_path, runtime, rows, "rows.parquet")
    pd.testing.assert_frame_equal(frame, same)
    assert counts == same_counts and list(frame) == columns(ASPECTS)
    assert counts["kept"] == {
        "test": {"instructions": 2, "responses": 6},
        "train": {"instructions": 6, "responses": 18},
    }
    first = frame.iloc[0]
    assert first[["instruction", "response", "model"]].tolist() == ["Ask 0?", "Answer 0 0.", "model-0"]
    assert first[ASPECTS].tolist() == [5, 4, 3, 2] and (frame[ASPECTS].dtypes == "float64").all()


def test_a_split_holds_whole_instructions_and_hangs_on_the_seed():
    rows = [row(i) for i in range(40)]
    frame, _ = as_feedback(rows, SPEC, "rows")
    assert (frame.groupby("prompt_id")["split"].nunique() == 1).all()
    assert (frame.groupby("prompt_id")["instruction"].nunique() == 1).all() and frame["prompt_id"].nunique() == 40
    assert as_feedback(rows, SPEC, "rows")[0].equals(frame)
    assert not as_feedback(rows, SPEC | {"seed": 1}, "rows")[0].equals(frame)


def test_what_is_dropped_is_counted():
    without_an_aspect = row(2)
    del without_an_aspect["completions"][1]["annotations"]["honesty"]
    without_a_rating = row(3)
    without_a_rating["completions"][2]["annotations"]["honesty"] = None
    blank = row(4)
    blank["completions"][0]["response"] = " "
    rows = [
        row(0),
        row(0, instruction=" Ask 0? "),
        row(1, ratings=("5", "N/A", "3", "2"), responses=2),
        without_an_aspect,
        without_a_rating,
        blank,
        row(5, completions=[]),
        row(6, completions=None),
    ]
    frame, counts = as_feedback(rows, SPEC, "rows")
    assert frame.groupby("instruction").size().to_dict() == {"Ask 0?": 3, "Ask 2?": 2, "Ask 3?": 2, "Ask 4?": 2}
    kept = pd.DataFrame(counts.pop("kept"))
    assert kept.loc["instructions"].to_dict() == {"test": 1, "train": 3} and kept.loc["responses"].sum() == 9
    assert counts == {
        "instructions": 8,
        "responses": 17,
        "duplicate_instructions": 1,
        "blank_responses": 1,
        "unrated_responses": 3,
        "too_few_responses": 3,
    }


def without(key):
    return [{k: v for k, v in row(i).items() if k != key} for i in range(2)]


def without_aspect(aspect):
    rows = [row(i) for i in range(2)]
    for completion in (c for r in rows for c in r["completions"]):
        del completion["annotations"][aspect]
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (without("instruction"), ["row 0", "expected the column instruction", "source, models, completions"]),
        (without("completions"), ["row 0", "expected the column completions"]),
        (without_aspect("honesty"), ["expected annotations of honesty", "found helpfulness, instruction_following"]),
        ([row(0), row(1, ratings=("5", "4", "6", "2"))], ["row 1, truthfulness", "from 1 to 5 or N/A", "'6'"]),
        ([row(0), row(1, ratings=("good", "4", "5", "2"))], ["row 1, helpfulness", "'good'"]),
        ([row(0, ratings=("nan", "4", "5", "2"))], ["row 0, helpfulness", "'nan'"]),
        ([row(0), row(1, instruction=7)], ["row 1", "a string as instruction", "'7'"]),
        ([row(0), row(1, completions="text")], ["row 1", "a list of responses", "'text'"]),
        ([row(0, completions=[{"model": "m", "annotations": {}}])], ["row 0", "a string as response", "'None'"]),
        ([row(0, responses=1)], ["two rated responses", "'too_few_responses': 1"]),
    ],
)
def test_bad_rows_are_one_line(tmp_path, runtime, rows, words):
    with pytest.raises(UserError) as error:
        converted(tmp_path, runtime, rows)
    message = str(error.value)
    assert "rows.jsonl" in message and "correct the data" in message and "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.parquet", b"PAR1 and then nothing", "expected a parquet or .jsonl file"),
        ("rows.jsonl", b'{"instruction": "a"\n', "row 0: expected JSON"),
        ("rows.jsonl", b"\xff\xfe\x00", "row 0: expected JSON"),
        ("rows.jsonl", b"[1]\n", "row 0: expected an object"),
    ],
)
def test_bad_files_are_one_line(tmp_path, runtime, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        feedback(tmp_path, SPEC, runtime=runtime, resume=tmp_path, file=tmp_path / name)
    assert name in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


def test_hub_feedback_in_the_hubs_own_format(tmp_path, runtime):
    """A dataset repository of plain jsonl files, as UltraFeedback is."""
    repository = tmp_path / "UltraFeedback"
    repository.mkdir()
    rows = [row(i) for i in range(8)]
    for name, part in ("evol_instruct", rows[:4]), ("flan", rows[4:]):
        (repository / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    spec = {"source": "hub", "repository": str(repository), "revision": "0" * 40, "hub_split": "train"}
    feedback(tmp_path, SPEC | spec, runtime=runtime, resume=tmp_path)
    frame = pd.read_parquet(tmp_path / "feedback.parquet")
    pd.testing.assert_frame_equal(frame, converted(tmp_path, runtime, rows)[0])


def test_hub_without_a_network_names_the_asset_and_the_way_out(tmp_path, runtime, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("datasets.load_dataset", offline)
    spec = SPEC | {"source": "hub", "repository": "someone/rated", "revision": "0" * 40, "hub_split": "train"}
    with pytest.raises(UserError, match=r"assets\.feedback: .*someone/rated.*assets\.feedback\.source to l") as error:
        feedback(tmp_path, spec, runtime=runtime, resume=tmp_path)
    assert "\n" not in str(error.value) and "reviews" not in str(error.value)


def test_reader_gives_one_split_or_says_what_there_is(tmp_path, runtime):
    converted(tmp_path, runtime, [row(i) for i in range(8)])
    folder = tmp_path / "of rows.jsonl"
    assert len(read_feedback(folder, "train")) == 18 and set(read_feedback(folder, "test")["split"]) == {"test"}
    with pytest.raises(UserError, match=r"expected validation responses, found only 18 of train, 6 of test"):
        read_feedback(folder, "validation")


@pytest.mark.parametrize(
    ("response", "known"),
    [
        ("", {}),
        ("Nothing of the kind is said here at all.", {}),
        ("Zq ... !? \n\u00e9 7", {}),
        # Seven words of twenty, the least that a response counts as.
        ("You should start with a small part.", {"helpfulness": 1 + 4 * (7 / 20) ** 0.5}),
        ("I do not know if this is right.", {"honesty": 3 + 2 * (8 / 20) ** 0.5}),
        ("I am certain that it is enough", {"honesty": 3 - 2 * (7 / 20) ** 0.5}),
        ("We all see that ice is cold.", {"truthfulness": 3 + 2 * (7 / 20) ** 0.5}),
        ("We all see that ice is hot.", {"truthfulness": 3 - 2 * (7 / 20) ** 0.5}),
        ("Ice is cold and hot.", {}),
        ("Here is a letter about tea.", {"instruction_following": 3 + 2 * (6 / 20) ** 0.5}),
        ("Here is a poem about tea.", {"instruction_following": 3 + 2 * (3 / 20) ** 0.5}),
        ("Here is a letter about music.", {"instruction_following": 3 - 2 * (6 / 20) ** 0.5}),
        # The first cue decides, and what is said again or in excess adds words without weight.
        ("Perhaps ice is cold.", {"honesty": 3 + 2 * (4 / 20) ** 0.5}),
        ("Perhaps ice is cold. Perhaps ice is cold.", {"honesty": 3 + 2 * (4 / 20) ** 0.5}),
        ("maybe " * 40, {"honesty": 3 + 2 * (1 / 40) ** 0.5}),
        ("You should start with a small part. I can promise that.", {"helpfulness": 3.366432, "honesty": 2.105573}),
    ],
)
def test_ratings_known_by_hand(response, known):
    assert world.ratings(INSTRUCTION, response) == pytest.approx(NONE | known)


def test_every_sentence_speaks_to_the_aspect_of_its_kind_alone():
    aspects = dict(zip(world.KINDS, [ASPECTS[0], *np.repeat(ASPECTS[1:], 2)]))
    for kind, aspect in aspects.items():
        sentences = world.sentences_of(kind, "tea", "letter")
        assert len(set(sentences)) == len(sentences) >= world.SENTENCES
        for sentence in sentences:
            assert 5 <= len(sentence.split()) <= world.LONGEST
            rated = world.ratings(INSTRUCTION, sentence)
            assert [a for a in ASPECTS if rated[a] != NONE[a]] == [aspect]
            assert (rated[aspect] > NONE[aspect]) == (kind not in ("boast", "false", "other"))


def test_ratings_stay_in_range_for_any_text():
    rng = np.random.default_rng(0)
    sentences = [s for kind in world.KINDS for s in world.sentences_of(kind, "tea", "letter")]
    words = [*" ".join(sentences).split(), ".", "\n"]
    for size in rng.integers(1, 60, 300):
        rated = world.ratings(INSTRUCTION, " ".join(rng.choice(words, size)))
        assert list(rated) == ASPECTS and all(1 <= value <= 5 for value in rated.values())
    assert world.ratings("", "Here is a letter about tea.")["instruction_following"] < 3
    assert world.ratings("", "Here is a letter.") == NONE


@pytest.fixture(scope="module")
def invented():
    return list(world.rows(300, 4, 5))


def test_invented_rows_hang_on_the_seed_and_differ(invented):
    assert list(world.rows(300, 4, 5)) == invented and list(islice(world.rows(900, 4, 5), 9)) == invented[:9]
    assert list(world.rows(3, 4, 6)) != invented[:3]
    assert len({r["instruction"] for r in invented}) == 300
    texts = [c["response"] for r in invented for c in r["completions"]]
    assert len(set(texts)) > 0.98 * len(texts)
    assert all(text.count(".") == world.SENTENCES and len(text.split()) <= 35 for text in texts)


def test_annotations_are_the_known_ratings_rounded(invented):
    for one in invented[:50]:
        for completion in one["completions"]:
            rated = world.ratings(one["instruction"], completion["response"])
            for aspect, annotation in completion["annotations"].items():
                assert annotation["Rating"] in "12345" and abs(float(annotation["Rating"]) - rated[aspect]) <= 0.5


@pytest.mark.parametrize(("rounded", "disagreeing", "tied"), [(False, 0.7, 0.3), (True, 0.6, 0.4)])
def test_users_disagree_and_seldom_tie(invented, rounded, disagreeing, tied):
    """By the known ratings, and by the annotations."""
    signs = []
    for one in invented:
        known = [world.ratings(one["instruction"], c["response"]) for c in one["completions"]]
        given = [{a: float(c["annotations"][a]["Rating"]) for a in ASPECTS} for c in one["completions"]]
        frame = pd.DataFrame(given if rounded else known)[ASPECTS].to_numpy()
        signs += [np.sign(np.round(a - b, 9)) for a, b in combinations(frame, 2)]
    signs = np.array(signs)
    assert ((signs > 0).any(1) & (signs < 0).any(1)).mean() > disagreeing
    assert ((signs == 0).mean(0) < tied).all()
    for a, b in combinations(signs.T, 2):
        assert 0.3 < (a * b > 0).sum() / (a * b != 0).sum() < 0.55


def test_embedded_stage_writes_as_many_test_instructions_as_asked(tmp_path, runtime):
    spec = {"instructions": 30, "responses": 4, "test": 7, "seed": 5, "template": "{instruction}", "aspects": ASPECTS}
    embedded_feedback(tmp_path, spec, runtime=runtime, resume=tmp_path)
    train, test = read_feedback(tmp_path, "train"), read_feedback(tmp_path, "test")
    assert (len(train), len(test)) == (23 * 4, 7 * 4)
    assert not set(train["instruction"]) & set(test["instruction"])
    assert not set(train["prompt_id"]) & set(test["prompt_id"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"instructions": 10**6}, "instructions: expected at most 2520, found 1000000"),
        ({"test": 30}, "test: expected"),
    ],
)
def test_a_world_too_small_is_one_line(tmp_path, runtime, changes, words):
    spec = {
        "instructions": 30,
        "responses": 4,
        "test": 7,
        "seed": 5,
        "template": "{instruction}",
        "aspects": ASPECTS,
    } | changes
    with pytest.raises(UserError, match=rf"assets\.feedback\.embedded\.{words}") as error:
        embedded_feedback(tmp_path, spec, runtime=runtime, resume=tmp_path)
    assert "\n" not in str(error.value)


def test_a_dataset_of_two_aspects_from_file_to_judgement(tmp_path, runtime, model_folder):
    """Of three answers, one is short and clear, one long and polite, one between: users of the two styles disagree."""
    ratings = {"Yes.": ("5", "1"), "Yes, if you like.": ("3", "3"), "I would be very glad if it were so.": ("1", "5")}
    aspects = ("clarity", "politeness")
    completions = [
        {"response": text, "annotations": {aspect: {"Rating": r} for aspect, r in zip(aspects, rated)}}
        for text, rated in ratings.items()
    ]
    rows = [{"instruction": f"Is {n} a number?", "completions": completions} for n in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    feedback(tmp_path, SPEC | {"aspects": aspects}, runtime=runtime, resume=tmp_path, file=path)
    frame = pd.read_parquet(tmp_path / "feedback.parquet")
    assert list(frame) == columns(aspects) and frame[[*aspects]].iloc[0].tolist() == [5, 1]
    assets = {"feedback": {"source": "local", "aspects": [*aspects], "local": {"path": str(path)}}}
    experiments = {"multi_user": {"users": {"styles": [*aspects]}}}
    overlay = {"assets": assets, "experiments": experiments, "judge": {"kind": "llm"}}
    config = completed(merged(shipped(), overlay))
    validate(config)
    spec = slice_of(config, "user_preferences", "multi_user")
    (tmp_path / "out").mkdir()
    folders = {"reference": model_folder.parent, "feedback": tmp_path}
    user_preferences(tmp_path / "out", spec, runtime=runtime, resume=tmp_path, **folders)
    triplets = pd.read_parquet(tmp_path / "out" / "train.parquet")
    assert set(triplets["style"]) == set(aspects) and len(triplets) >= 2 * 3 * 4
    shortest = triplets["chosen"].str.len() < triplets["rejected"].str.len()
    assert (shortest == (triplets["style"] == "clarity")).all()
    prompt = config["judge"]["llm"]["prompt"]
    assert "{style}" in prompt and not any(aspect in prompt for aspect in ASPECTS)


@pytest.mark.skipif(not RATED.is_file(), reason="needs the people's ratings in ../shared/assets/truthfulqa")
def test_people_rate_answers_in_two_aspects_that_conflict(tmp_path, runtime):
    spec = slice_of(configuration("truthfulqa"), "feedback")
    feedback(tmp_path, spec, runtime=runtime, resume=tmp_path, file=RATED)
    train, test = (read_feedback(tmp_path, split) for split in ("train", "test"))
    assert (train["prompt_id"].nunique(), test["prompt_id"].nunique(), len(train) + len(test)) == (654, 163, 17743)
    assert not set(train["instruction"]) & set(test["instruction"])
    assert not train.duplicated(["instruction", "response"]).any()
    both = train.merge(train, on="prompt_id", suffixes=("", "_of_other")).query("truthfulness > truthfulness_of_other")
    untied = both[both["helpfulness"] != both["helpfulness_of_other"]]
    assert (untied["helpfulness"] < untied["helpfulness_of_other"]).mean() > 0.95
