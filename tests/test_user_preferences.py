"""Who judges what: users who are trained with, and users whom no training sees."""

from pathlib import Path

import pandas as pd
import pytest

from mixdpo.errors import UserError
from mixdpo.stages.assets.embedded_feedback import embedded_feedback
from mixdpo.stages.preferences import compare
from mixdpo.stages.user_preferences import by_users, unseen_users_of, user_preferences, users_of
from mixdpo.world.feedback import ASPECTS

SPLITS = ("train", "validation", "test", "support")
SPEC = {
    "styles": ["helpfulness", "honesty", "truthfulness"],
    "users_per_style": 3,
    "unseen_per_style": 2,
    "support": 6,
    "responses": 3,
    "disagreement_only": True,
    "max_prompt_tokens": 1000,
    "max_tokens": 1000,
    "template": "{instruction}\n",
    "validation_share": 0.1,
    "seed": 13,
}


@pytest.fixture(scope="module")
def feedback_folder(tmp_path_factory, runtime) -> Path:
    folder = tmp_path_factory.mktemp("feedback")
    spec = {"instructions": 90, "responses": 4, "test": 30, "seed": 5, "template": "{instruction}", "aspects": ASPECTS}
    embedded_feedback(folder, spec, runtime=runtime, resume=folder)
    return folder


def written(out: Path, model_folder: Path, feedback_folder: Path, runtime, **changes) -> dict[str, pd.DataFrame]:
    out.mkdir()
    inputs = {"reference": model_folder.parent, "feedback": feedback_folder}
    user_preferences(out, SPEC | changes, runtime=runtime, resume=out, **inputs)
    return {split: pd.read_parquet(out / f"{split}.parquet") for split in SPLITS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_folder, feedback_folder, runtime) -> Path:
    out = tmp_path_factory.mktemp("users") / "preferences"
    written(out, model_folder, feedback_folder, runtime)
    return out


@pytest.fixture(scope="module")
def parts(folder) -> dict[str, pd.DataFrame]:
    return {split: pd.read_parquet(folder / f"{split}.parquet") for split in SPLITS}


def test_seen_and_unseen_users_differ_and_each_has_a_style():
    seen, unseen = users_of(SPEC), unseen_users_of(SPEC)
    assert len(seen) == 9 and len(unseen) == 6 and pd.concat([seen, unseen])["user"].is_unique
    assert seen["style"].value_counts().eq(3).all() and unseen["style"].value_counts().eq(2).all()
    fewer = {key: SPEC[key] for key in ("styles", "users_per_style")}  # what an evaluation is given
    assert users_of(fewer).equals(seen)


def test_training_never_sees_an_unseen_user(parts):
    seen, unseen = set(users_of(SPEC)["user"]), set(unseen_users_of(SPEC)["user"])
    assert set(parts["train"]["user"]) == seen and set(parts["validation"]["user"]) <= seen
    assert set(parts["support"]["user"]) == unseen and set(parts["test"]["user"]) == seen | unseen
    style = pd.concat([users_of(SPEC), unseen_users_of(SPEC)]).set_index("user")["style"]
    for split, part in parts.items():
        assert part["seen"].dtype == bool and (part["seen"] == part["user"].isin(seen)).all(), split
        assert (part["style"] == part["user"].map(style)).all()
        assert (part["chosen_score"] > part["rejected_score"]).all()


def test_splits_share_no_instruction_but_support_is_of_train(parts):
    prompts = {split: set(part["prompt"]) for split, part in parts.items()}
    assert not prompts["train"] & prompts["validation"] and not prompts["test"] & (
        prompts["train"] | prompts["validation"]
    )
    pairs = {split: set(zip(part["prompt_id"], part["pair"], part["style"])) for split, part in parts.items()}
    assert pairs["support"] < pairs["train"]


def test_every_test_pair_is_judged_by_a_seen_and_an_unseen_user_of_each_style(parts):
    triplets = parts["test"].groupby(["prompt_id", "pair", "style"])["seen"].agg(["sum", "size"])
    assert (triplets["sum"] == 1).all() and (triplets["size"] == 2).all()


def test_unseen_users_judge_equally_many_pairs(tmp_path, parts, model_folder, feedback_folder, runtime):
    """A user's triplets are fewer by the ties."""
    assert parts["support"].groupby(["prompt_id", "pair"]).ngroups <= 2 * 6
    assert parts["support"]["user"].value_counts().max() <= 6
    few = written(tmp_path / "few", model_folder, feedback_folder, runtime, support=2)["support"]
    assert few["user"].value_counts().max() <= 2 and few.groupby(["prompt_id", "pair"]).ngroups <= 4
    rows = [
        {
            "prompt_id": i,
            "sample": s,
            "domain": "",
            "prompt": "",
            "completion": "",
            "prompt_ids": [],
            "completion_ids": [],
        }
        for i in range(30)
        for s in range(2)
    ]
    scores = pd.DataFrame(rows)
    for style in SPEC["styles"]:
        scores[style] = scores["sample"].astype(float)
    comparisons = compare(scores, SPEC["styles"])
    comparisons["split"] = ["test" if i >= 20 else "train" for i in comparisons["prompt_id"]]
    given = by_users(comparisons, SPEC)
    assert given.loc[given["split"] == "support", "user"].value_counts().tolist() == [6] * 6
    assert by_users(comparisons, SPEC).equals(given) and not by_users(comparisons, SPEC | {"seed": 1}).equals(given)


def test_counts_are_those_of_the_files(folder, parts):
    counts = pd.read_csv(folder / "counts.csv").set_index("style")
    for split, part in parts.items():
        assert counts[split].to_dict() == part["style"].value_counts().to_dict()
    told = counts["ties"] + counts["train"] + counts["validation"] + counts["test"] / 2
    assert (told == counts["pairs"]).all(), "a test pair has two triplets of a style"
    pairs, disagreeing = pd.read_csv(folder / "disagreement.csv").iloc[0]
    assert pairs == 90 * 3 and disagreeing == counts["pairs"].iloc[0] < pairs


def test_too_long_test_responses_are_one_line(tmp_path, model_folder, feedback_folder, runtime):
    frame = pd.read_parquet(feedback_folder / "feedback.parquet")
    frame.loc[frame["split"] == "test", "response"] *= 40
    frame.to_parquet(tmp_path / "feedback.parquet")
    with pytest.raises(
        UserError, match=r"expected test instructions with 3 responses of at most 1000 tokens, found none"
    ):
        written(tmp_path / "out", model_folder, tmp_path, runtime)
