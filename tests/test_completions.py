"""Prompts are the beginnings of reviews; a killed run continues to the same rows."""

import pandas as pd
import pytest
from transformers import AutoTokenizer

from mixdpo.completions import choose_prompts, completions
from mixdpo.errors import UserError

SPEC = {
    "prompts": 12,
    "prompt_tokens": [2, 8],
    "per_prompt": 2,
    "max_new_tokens": 10,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "batch_size": 4,
    "seed": 0,
    "domains": ["movie"],
    "split": "train",
}


def run(out, resume, model_folder, reviews_folder, runtime):
    for folder in (out, resume):
        folder.mkdir(exist_ok=True)
    completions(out, SPEC, runtime=runtime, resume=resume, policy=model_folder.parent, reviews=reviews_folder)
    return pd.read_parquet(out / "completions.parquet")


def test_prompts_begin_reviews(model_folder, reviews_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    prompts = choose_prompts(reviews_folder, tokenizer, SPEC)
    texts = pd.read_parquet(reviews_folder / "reviews.parquet").set_index("id")["text"]
    assert len(prompts) == 12 and prompts["review_id"].is_unique
    assert prompts["prompt_ids"].str.len().between(2, 8).all() and prompts["prompt_ids"].str.len().nunique() > 2
    for row in prompts.itertuples():
        assert texts[row.review_id].startswith(tokenizer.decode(row.prompt_ids))


def test_too_few_long_reviews_is_one_line(model_folder, reviews_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    with pytest.raises(UserError, match="expected 12 train reviews of domain movie with more than 500 tokens, found 0"):
        choose_prompts(reviews_folder, tokenizer, SPEC | {"prompt_tokens": [2, 500]})
    with pytest.raises(UserError, match="expected train reviews of domain book, found only movie/"):
        choose_prompts(reviews_folder, tokenizer, SPEC | {"domains": ["book"]})


def test_completions_and_resume(tmp_path, model_folder, reviews_folder, runtime):
    frame = run(tmp_path / "a", tmp_path / "ra", model_folder, reviews_folder, runtime)
    assert len(frame) == 24 and frame.groupby("prompt_id")["sample"].apply(list).map(tuple).unique().tolist() == [
        (0, 1)
    ]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for row in frame.itertuples():
        whole = tokenizer.decode([*row.prompt_ids, *row.completion_ids], skip_special_tokens=True)
        assert row.prompt + row.completion == whole
    batches = sorted((tmp_path / "ra").glob("batch-*.json"))
    for batch in batches[::2]:
        batch.unlink()
    again = run(tmp_path / "b", tmp_path / "ra", model_folder, reviews_folder, runtime)
    pd.testing.assert_frame_equal(frame, again)
