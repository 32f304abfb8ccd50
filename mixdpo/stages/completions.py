"""Prompts from the first tokens of reviews, and completions sampled for them."""

import json
from collections.abc import Iterable, Iterator
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


def choose_prompts(
    reviews: Path, tokenizer: PreTrainedTokenizerBase, spec: dict, taken: Iterable[str] = ()
) -> pd.DataFrame:
    """One row for each prompt, equally many from every domain: prompt_id, review_id, domain, prompt_ids.

    Prompts differ in text from each other and from those `taken` before. `beginnings` says what a prompt is.
    """
    rng, taken = np.random.default_rng(spec["seed"]), set(taken)
    each, rest = divmod(spec["prompts"], len(spec["domains"]))
    rows = []
    for i, domain in enumerate(spec["domains"]):
        wanted = each + (i < rest)
        frame = read_reviews(reviews, spec["split"], [domain])
        frame = frame.iloc[rng.permutation(len(frame))]
        found = list(islice(beginnings(frame, tokenizer, spec["prompt_tokens"], rng, taken), wanted))
        if len(found) < wanted:
            raise UserError(
                f"{reviews}: expected {wanted} prompts of domain {domain} that differ, each from a {spec['split']} "
                f"review of more than {spec['prompt_tokens'][1]} tokens, found {len(found)} in {len(frame)} reviews; "
                "lower prompts, raise completions.prompt_tokens if the reviews begin alike, lower it if they are "
                "short, or give assets.reviews more of them"
            )
        rows += [{"review_id": review_id, "domain": domain, "prompt_ids": prompt} for review_id, prompt in found]
    frame = pd.DataFrame(rows)
    frame.insert(0, "prompt_id", range(len(frame)))
    return frame


def beginnings(
    reviews: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, lengths: tuple[int, int], rng, taken: set[str]
) -> Iterator[tuple[str, list[int]]]:
    """Review after review, its id and the token ids of its prompt, whose text joins `taken`.

    A prompt is the first `lengths[0]` to `lengths[1]` tokens after any beginning-of-text, the length drawn for each
    review; it takes more where its text is taken, and the review is passed over if none of the lengths helps. It also
    takes up to 3 more where it would cut a character, which has at most 4 bytes. Reviews must be longer than the
    longest prompt.
    """
    begin = len(tokenizer("")["input_ids"])
    shortest, longest = (begin + length for length in lengths)
    for review_id, text in zip(reviews["id"], reviews["text"], strict=True):
        tokens = tokenizer(text)["input_ids"]
        if len(tokens) <= longest:
            continue
        for length in range(rng.integers(shortest, longest, endpoint=True), longest + 1):
            whole = (n for n in range(length, length + 4) if not tokenizer.decode(tokens[:n]).endswith("\ufffd"))
            prompt = tokens[: next(whole, length)]  # the review itself may hold U+FFFD
            if (words := tokenizer.decode(prompt, skip_special_tokens=True)) not in taken:
                taken.add(words)
                yield review_id, prompt
                break


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
