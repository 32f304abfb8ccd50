"""Supervised fine-tuning: the base model learns to write the training reviews of an experiment's domains."""

from pathlib import Path

import pandas as pd
from transformers import AutoTokenizer

from mixdpo.data.reviews import draw_texts
from mixdpo.method.fit import optimiser_of
from mixdpo.method.language import load_language_model, perplexity, token_rows, train_language_model
from mixdpo.method.runtime import Runtime


def sft(out: Path, spec: dict, *, runtime: Runtime, resume: Path, base: Path, reviews: Path) -> None:
    """Write `model/`, `curve.csv` and `perplexity.csv` (per domain on test reviews, before and after).

    Rows are the first `max_tokens` tokens of a review, as completions never reach further. Section 4.1: the
    fine-tuned model is both the starting point and the reference policy.
    """
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    model = load_language_model(base / "model", runtime)
    held_out = {
        domain: token_rows(
            draw_texts(reviews, "test", [domain], spec["perplexity_reviews"], spec["seed"]),
            tokenizer,
            spec["max_tokens"],
            first_only=True,
        )
        for domain in spec["domains"]
    }
    before = {domain: perplexity(model, rows, runtime) for domain, rows in held_out.items()}
    texts = draw_texts(reviews, "train", spec["domains"], spec["reviews"], spec["seed"])
    rows = token_rows(texts, tokenizer, spec["max_tokens"], first_only=True)
    how = {"epochs": spec["epochs"], "optimiser": optimiser_of(spec), "seed": spec["seed"]}
    curve = train_language_model(model, rows, **how, runtime=runtime, resume=resume)
    after = {domain: perplexity(model, rows, runtime) for domain, rows in held_out.items()}
    table = [
        {"domain": d, "reviews": len(held_out[d]), "before": before[d], "after": after[d]} for d in spec["domains"]
    ]
    pd.DataFrame(table).to_csv(out / "perplexity.csv", index=False)
    curve.to_csv(out / "curve.csv", index=False)
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
