"""A language model of a few thousand weights and the runtime that every stage function takes."""

import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mixdpo.assets.base import train_tokenizer
from mixdpo.runtime import Runtime

SENTENCES = [
    "The film is a quiet story about two sisters and a boat.",
    "I liked the acting, but the ending was weak and far too long.",
    "Nobody in this book says what they mean, and that is why it works.",
    "Skip it. The jokes are old and the camera never stops moving.",
    "A warm novel with a clever plot and characters that stay with you.",
]


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return Runtime.choose("cpu", "fp32", 1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> "Path":  # noqa: F821
    """`model/` of an artifact: a random two-layer GPT-2 with its own tokenizer."""
    folder = tmp_path_factory.mktemp("policy") / "model"
    tokenizer = train_tokenizer(pd.Series(SENTENCES * 4), 300, folder)
    torch.manual_seed(0)
    size = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews_folder(tmp_path_factory) -> "Path":  # noqa: F821
    """A corpus of 60 short reviews in three splits."""
    folder = tmp_path_factory.mktemp("reviews")
    rows = [
        (
            f"movie-{i}",
            f"{SENTENCES[i % 5]} {SENTENCES[(i * 3 + 1) % 5]} Number {i}.",
            i % 2,
            3 + 5 * (i % 2),
            "movie",
            split,
        )
        for i, split in enumerate(["base"] * 20 + ["train"] * 20 + ["test"] * 20)
    ]
    frame = pd.DataFrame(rows, columns=["id", "text", "label", "rating", "domain", "split"])
    frame.to_parquet(folder / "reviews.parquet", index=False)
    return folder
