"""Perplexity is transformers' own; SFT lowers it."""

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from mixdpo.language import load_language_model, perplexity, token_rows
from mixdpo.sft import sft


def test_perplexity_is_exp_of_the_library_loss(model_folder, runtime):
    model = load_language_model(model_folder, runtime)
    rows = [[5, 6, 7, 8, 9], [9, 8, 7]]
    with torch.no_grad():
        losses = [model(torch.tensor([row]), labels=torch.tensor([row])).loss.item() * (len(row) - 1) for row in rows]
    assert perplexity(model, rows, runtime) == pytest.approx(torch.tensor(sum(losses) / 6).exp().item(), rel=1e-5)


def test_token_rows(model_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    text = "The film is a quiet story about two sisters and a boat."
    (whole,) = token_rows([text], tokenizer, 1000, first_only=True)
    assert tokenizer.decode(whole[:-1]) == text and whole[-1] == tokenizer.eos_token_id
    pieces = token_rows([text], tokenizer, 5, first_only=False)
    assert [token for piece in pieces for token in piece] in (whole, whole[:-1]) and all(
        1 < len(piece) <= 5 for piece in pieces
    )
    assert token_rows([text], tokenizer, 5, first_only=True) == pieces[:1]


def test_sft_lowers_perplexity(tmp_path, model_folder, reviews_folder, runtime):
    spec = {
        "domains": ["movie"],
        "reviews": 20,
        "max_tokens": 48,
        "perplexity_reviews": 10,
        "epochs": 5,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "warmup": 0.1,
        "schedule": "linear",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "seed": 0,
    }
    sft(tmp_path, spec, runtime=runtime, resume=tmp_path, base=model_folder.parent, reviews=reviews_folder)
    table = pd.read_csv(tmp_path / "perplexity.csv").iloc[0]
    assert table["domain"] == "movie" and table["reviews"] == 10 and table["after"] < 0.5 * table["before"]
    assert len(pd.read_csv(tmp_path / "curve.csv")) == 25
    assert (
        load_language_model(tmp_path / "model", runtime).config.vocab_size
        == load_language_model(model_folder, runtime).config.vocab_size
    )
