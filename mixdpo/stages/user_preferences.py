"""Users of different styles: who they are, what they ask, and what they prefer (the poster's multi-user alignment)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mixdpo.data.feedback import DOMAIN, read_feedback
from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime
from mixdpo.stages.preferences import compare, splits_of, style_agreement, write_preferences

SPLITS = ["train", "validation", "test", "support"]


def users_of(spec: dict) -> pd.DataFrame:
    """One row a user who is trained with: user, a name that does not tell the style, and style; `users_per_style` of
    each of the `styles`."""
    styles = spec["styles"] * spec["users_per_style"]
    return pd.DataFrame({"user": [f"user-{i:03}" for i in range(len(styles))], "style": styles})


def unseen_users_of(spec: dict) -> pd.DataFrame:
    """The same of users who are not trained with, `unseen_per_style` of each style; their numbers follow."""
    everyone = users_of(spec | {"users_per_style": spec["users_per_style"] + spec["unseen_per_style"]})
    return everyone[len(users_of(spec)) :]


def prompt_ids(instructions: pd.Series, tokenizer: PreTrainedTokenizerBase, spec: dict) -> list[list[int]]:
    """Token ids of instructions in their template."""
    texts = [spec["template"].format(instruction=instruction) for instruction in instructions]
    return tokenizer(texts)["input_ids"]


def instruction_prompts(feedback: Path, tokenizer: PreTrainedTokenizerBase, spec: dict) -> pd.DataFrame:
    """Test instructions, each asked by one user: prompt_id, instruction, domain, user, style, prompt_ids.

    Instructions of more than `max_prompt_tokens` are left out. Users ask equally many, ± 1.
    """
    frame = read_feedback(feedback, "test").drop_duplicates("prompt_id")[["instruction"]]
    frame = frame.assign(prompt_ids=prompt_ids(frame["instruction"], tokenizer, spec))
    frame = frame[frame["prompt_ids"].str.len() <= spec["max_prompt_tokens"]]
    if len(frame) < spec["prompts"]:
        raise UserError(
            f"{feedback}: expected {spec['prompts']} test instructions of at most {spec['max_prompt_tokens']} tokens, "
            f"found {len(frame)}; lower evaluations.prompts or raise max_prompt_tokens"
        )
    rng, users = np.random.default_rng(spec["seed"]), users_of(spec)
    frame = frame.iloc[rng.permutation(len(frame))[: spec["prompts"]]].reset_index(drop=True)
    asking = users.iloc[rng.permutation(np.arange(len(frame)) % len(users))].reset_index(drop=True)
    frame = pd.concat([frame[["instruction"]].assign(domain=DOMAIN), asking, frame[["prompt_ids"]]], axis=1)
    frame.insert(0, "prompt_id", range(len(frame)))
    return frame


def rated_responses(feedback: Path, tokenizer: PreTrainedTokenizerBase, spec: dict, split: str) -> pd.DataFrame:
    """`responses` responses, drawn at random, of every instruction of a split that has so many: the columns of the
    completions stage, and a rating for each style.

    Left out: instructions of more than `max_prompt_tokens`, responses of more than `max_tokens` with end-of-text.
    """
    frame = read_feedback(feedback, split).sample(frac=1, random_state=spec["seed"])
    frame["prompt_ids"] = prompt_ids(frame["instruction"], tokenizer, spec)
    ids = tokenizer(frame["response"].tolist(), add_special_tokens=False)["input_ids"]
    frame["completion_ids"] = [[*row, tokenizer.eos_token_id] for row in ids]
    short = frame["prompt_ids"].str.len() <= spec["max_prompt_tokens"]
    frame = frame[short & (frame["completion_ids"].str.len() <= spec["max_tokens"])]
    frame["sample"] = frame.groupby("prompt_id").cumcount()
    frame = frame[frame["sample"] < spec["responses"]]
    frame = frame[frame.groupby("prompt_id")["sample"].transform("size") == spec["responses"]]
    if frame.empty:
        raise UserError(
            f"{feedback}: expected {split} instructions with {spec['responses']} responses of at most "
            f"{spec['max_tokens']} tokens, found none; lower responses or raise max_tokens"
        )
    prompts = [spec["template"].format(instruction=instruction) for instruction in frame["instruction"]]
    frame = frame.rename(columns={"response": "completion"}).assign(prompt=prompts, domain=DOMAIN)
    return frame.sort_values(["prompt_id", "sample"]).reset_index(drop=True)


def user_preferences(out: Path, spec: dict, *, runtime: Runtime, resume: Path, reference: Path, feedback: Path) -> None:
    """Write what the preferences stage writes, with the columns user and seen in place of annotators, and
    `disagreement.csv`.

    A user prefers the response with the higher rating in the user's style; a tie gives no triplet. Training
    instructions, divided into train and validation, are judged by the users who are trained with; test instructions by
    these (`seen`) and by others; and some pairs of train by those others, from which a policy may learn about them:
    `support.parquet`. With `disagreement_only` a pair counts only if two styles order it differently, as in Poddar et
    al. `disagreement.csv` has one row: pairs, disagreeing.
    """
    tokenizer = AutoTokenizer.from_pretrained(reference / "model")
    rated = {split: rated_responses(feedback, tokenizer, spec, split) for split in ("train", "test")}
    parts = [compare(frame, spec["styles"]).assign(split=split) for split, frame in rated.items()]
    comparisons = pd.concat(parts, ignore_index=True)
    pair = [comparisons["prompt_id"], comparisons["pair"]]
    order = comparisons["swapped"].where(~comparisons["tie"]).astype(float)
    disagree = (order.groupby(pair).transform("nunique") > 1).to_numpy()
    styles = len(spec["styles"])
    shares = {"pairs": len(comparisons) // styles, "disagreeing": int(disagree.sum()) // styles}
    pd.DataFrame([shares]).to_csv(out / "disagreement.csv", index=False)
    if spec["disagreement_only"]:
        comparisons = comparisons[disagree].reset_index(drop=True)
    write_preferences(out, by_users(comparisons, spec), SPLITS, feedback)
    style_agreement(comparisons).to_csv(out / "agreement.csv", index=False)


def by_users(comparisons: pd.DataFrame, spec: dict) -> pd.DataFrame:
    """Comparisons of the splits train and test as users make them: split is one of `SPLITS`, and there are user and
    seen.

    Who of a style sees a pair is drawn at random, but unseen users of a style have equally many pairs of train,
    `support` each or what there is.
    """
    rng, seen, unseen = np.random.default_rng(spec["seed"]), users_of(spec), unseen_users_of(spec)
    training, test = (comparisons[comparisons["split"] == split] for split in ("train", "test"))
    training = judged(training, seen, rng)
    training["split"] = splits_of(training, {"validation": spec["validation_share"]}, spec["seed"])
    train = training[training["split"] == "train"]
    pairs = train[["prompt_id", "pair"]].drop_duplicates()
    pairs = pairs.iloc[rng.permutation(len(pairs))[: spec["unseen_per_style"] * spec["support"]]]
    support = train.drop(columns="user").merge(pairs.assign(turn=range(len(pairs))), on=["prompt_id", "pair"])
    turns = support.pop("turn") % spec["unseen_per_style"]
    parts = [
        training.assign(seen=True),
        judged(test, seen, rng).assign(seen=True),
        judged(test, unseen, rng).assign(seen=False),
        of_style(support, unseen, turns).assign(seen=False, split="support"),
    ]
    return pd.concat(parts, ignore_index=True)


def judged(comparisons: pd.DataFrame, users: pd.DataFrame, rng) -> pd.DataFrame:
    """Comparisons with a column user: of the users of the style, one is drawn."""
    return of_style(comparisons, users, rng.integers(users["style"].value_counts().min(), size=len(comparisons)))


def of_style(comparisons: pd.DataFrame, users: pd.DataFrame, numbers: Sequence[int]) -> pd.DataFrame:
    """Comparisons with a column user: row by row, the user of that number among those of the style."""
    by_style = users.groupby("style")["user"].agg(list)
    return comparisons.assign(user=[by_style[s][i] for s, i in zip(comparisons["style"], numbers, strict=True)])
