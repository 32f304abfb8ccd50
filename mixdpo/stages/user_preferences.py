"""Users of different styles: who they are, what they ask, and what they prefer (the poster's multi-user alignment)."""

from pathlib import Path

import numpy as np
import pandas as pd
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mixdpo.data.feedback import DOMAIN, read_feedback
from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime
from mixdpo.stages.preferences import compare, style_agreement, write_preferences


def users_of(spec: dict) -> pd.DataFrame:
    """One row a user: user, a name that does not tell the style, and style; `users_per_style` of each of the
    `styles`."""
    styles = spec["styles"] * spec["users_per_style"]
    return pd.DataFrame({"user": [f"user-{i:03}" for i in range(len(styles))], "style": styles})


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


def rated_responses(feedback: Path, tokenizer: PreTrainedTokenizerBase, spec: dict) -> pd.DataFrame:
    """`responses` training responses, drawn at random, of every instruction that has so many: the columns of the
    completions stage, and a rating for each style.

    Left out: instructions of more than `max_prompt_tokens`, responses of more than `max_tokens` with end-of-text.
    """
    frame = read_feedback(feedback, "train").sample(frac=1, random_state=spec["seed"])
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
            f"{feedback}: expected instructions with {spec['responses']} responses of at most "
            f"{spec['max_tokens']} tokens, found none; lower responses or raise max_tokens"
        )
    prompts = [spec["template"].format(instruction=instruction) for instruction in frame["instruction"]]
    frame = frame.rename(columns={"response": "completion"}).assign(prompt=prompts, domain=DOMAIN)
    return frame.sort_values(["prompt_id", "sample"]).reset_index(drop=True)


def user_preferences(out: Path, spec: dict, *, runtime: Runtime, resume: Path, reference: Path, feedback: Path) -> None:
    """Write what the preferences stage writes, with a column user, and `disagreement.csv`.

    A user prefers the response with the higher rating in the user's style. Every pair is shown to one user of each
    style, drawn at random; a tie gives no triplet. With `disagreement_only` a pair counts only if two styles order it
    differently, as in Poddar et al. `disagreement.csv` has one row: pairs, disagreeing.
    """
    tokenizer = AutoTokenizer.from_pretrained(reference / "model")
    comparisons = compare(rated_responses(feedback, tokenizer, spec), spec["styles"])
    pair = [comparisons["prompt_id"], comparisons["pair"]]
    order = comparisons["swapped"].where(~comparisons["tie"]).astype(float)
    disagree = (order.groupby(pair).transform("nunique") > 1).to_numpy()
    styles = len(spec["styles"])
    shares = {"pairs": len(comparisons) // styles, "disagreeing": int(disagree.sum()) // styles}
    pd.DataFrame([shares]).to_csv(out / "disagreement.csv", index=False)
    if spec["disagreement_only"]:
        comparisons = comparisons[disagree].reset_index(drop=True)
    rng, users = np.random.default_rng(spec["seed"]), users_of(spec)
    drawn = rng.integers(spec["users_per_style"], size=len(comparisons))
    by_style = users.groupby("style")["user"].agg(list)
    comparisons["user"] = [by_style[style][i] for style, i in zip(comparisons["style"], drawn, strict=True)]
    write_preferences(out, comparisons, spec, feedback)
    style_agreement(comparisons).to_csv(out / "agreement.csv", index=False)
