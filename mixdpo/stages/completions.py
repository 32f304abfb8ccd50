"""Prompts from the first tokens of reviews, and completions sampled for them."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mixdpo.data.reviews import read_reviews
from mixdpo.errors import UserError
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.provenance import durable


def choose_prompts(reviews: Path, tokenizer: PreTrainedTokenizerBase, spec: dict) -> pd.DataFrame:
    """One row for each prompt, equally many from every domain: prompt_id, review_id, domain, prompt_ids.

    A prompt is the first `prompt_tokens[0]` to `prompt_tokens[1]` tokens of a review after any beginning-of-text, the
    length drawn for each review. It takes up to 3 more tokens where it would cut a character, which has at most 4
    bytes. A review must be longer than the longest prompt.
    """
    rng = np.random.default_rng(spec["seed"])
    begin = len(tokenizer("")["input_ids"])
    shortest, longest = (begin + length for length in spec["prompt_tokens"])
    each, rest = divmod(spec["prompts"], len(spec["domains"]))
    rows = []
    for i, domain in enumerate(spec["domains"]):
        wanted = each + (i < rest)
        frame = read_reviews(reviews, spec["split"], [domain])
        frame = frame.iloc[rng.permutation(len(frame))]
        ids = (tokenizer(text)["input_ids"] for text in frame["text"])
        candidates = ((review_id, tokens) for review_id, tokens in zip(frame["id"], ids) if len(tokens) > longest)
        long_enough = list(islice(candidates, wanted))
        if len(long_enough) < wanted:
            raise UserError(
                f"{reviews}: expected {wanted} {spec['split']} reviews of domain {domain} with more than {longest} "
                f"tokens, found {len(long_enough)} of {len(frame)}; lower prompts or prompt_tokens"
            )
        for review_id, tokens in long_enough:
            drawn = rng.integers(shortest, longest, endpoint=True)
            whole = (n for n in range(drawn, drawn + 4) if not tokenizer.decode(tokens[:n]).endswith("\ufffd"))
            length = next(whole, drawn)  # the review itself may hold U+FFFD
            rows.append({"review_id": review_id, "domain": domain, "prompt_ids": tokens[:length]})
    frame = pd.DataFrame(rows)
    frame.insert(0, "prompt_id", range(len(frame)))
    return frame


def complete(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    prompts: pd.DataFrame,
    spec: dict,
    runtime: Runtime,
    resume: Path,
    **routing,
) -> pd.DataFrame:
    """Sample `per_prompt` completions of every prompt: the rows of `prompts` with sample, completion_ids and texts.

    `routing` says which experts decode, as in `Policy.generate`. Finished batches are saved in `resume`, and each has
    its own seed, so a killed run continues to the same rows.
    """
    how = {name: spec[name] for name in ("max_new_tokens", "temperature", "top_k", "top_p")}
    frame = prompts.loc[prompts.index.repeat(spec["per_prompt"])].reset_index(drop=True)
    frame["sample"] = frame.groupby("prompt_id").cumcount()
    order = np.argsort(frame["prompt_ids"].str.len(), kind="stable")
    chunks = np.array_split(order, -(-len(order) // spec["batch_size"]))
    completions = [None] * len(frame)
    for number, rows in enumerate(tqdm(chunks, mininterval=2, unit="batch")):
        file = resume / f"batch-{number}.json"
        if not file.exists():
            seed = spec["seed"] * 1_000_003 + number
            chunk = frame["prompt_ids"].iloc[rows].tolist()
            users = frame["user"].iloc[rows].tolist() if "user" in frame else None
            drawn = policy.generate(chunk, runtime=runtime, seed=seed, users=users, **routing, **how)
            durable.write(file, lambda path, drawn=drawn: path.write_text(json.dumps(drawn)))
        for row, ids in zip(rows, json.loads(file.read_text()), strict=True):
            completions[row] = ids
    frame["completion_ids"] = completions
    frame["prompt"] = tokenizer.batch_decode(frame["prompt_ids"].tolist(), skip_special_tokens=True)
    whole = tokenizer.batch_decode(
        [[*p, *c] for p, c in zip(frame["prompt_ids"], completions, strict=True)], skip_special_tokens=True
    )
    frame["completion"] = [text[len(prompt) :] for text, prompt in zip(whole, frame["prompt"], strict=True)]
    return frame


def completions(out: Path, spec: dict, *, runtime: Runtime, resume: Path, reference: Path, reviews: Path) -> None:
    """Write `completions.parquet`: prompt_id, sample, review_id, domain, token ids and texts of every completion."""
    tokenizer = AutoTokenizer.from_pretrained(reference / "model")
    prompts = choose_prompts(reviews, tokenizer, spec)
    frame = complete(Policy.from_pretrained(reference / "model", runtime), tokenizer, prompts, spec, runtime, resume)
    frame.to_parquet(out / "completions.parquet", index=False)
