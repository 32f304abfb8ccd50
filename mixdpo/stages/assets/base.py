"""The base language model: trained from the run's own reviews, or a checkpoint from a local folder or the hub."""

from pathlib import Path

import pandas as pd
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from mixdpo.data.feedback import DOMAIN
from mixdpo.data.reviews import read_reviews
from mixdpo.errors import UserError
from mixdpo.method.fit import optimiser_of
from mixdpo.method.language import token_rows, train_language_model
from mixdpo.method.runtime import Runtime
from mixdpo.stages.assets.models import check, obtain

END = "<|endoftext|>"


def train_tokenizer(texts: pd.Series, vocabulary: int, out: Path) -> GPT2TokenizerFast:
    """A byte-level BPE in GPT-2's format, learned from `texts`."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=[END], show_progress=False)
    out.mkdir(parents=True)
    bpe.save_model(str(out))
    tokenizer = GPT2TokenizerFast(str(out / "vocab.json"), str(out / "merges.txt"))
    tokenizer.save_pretrained(out)
    return tokenizer


def base(
    out: Path,
    spec: dict,
    *,
    runtime: Runtime,
    resume: Path,
    reviews: Path | None = None,
    feedback: Path | None = None,
    **_: Path,
) -> None:
    """Write `model/`, a causal language model with its tokenizer; with source reviews, `curve.csv` beside it.

    It learns reviews and, if there is `feedback`, the training instructions with their responses.
    """
    if spec["source"] != "reviews":
        obtain("base", out, spec)
        check("base", out, AutoTokenizer.from_pretrained)
        check("base", out, AutoModelForCausalLM.from_pretrained)
        return
    frame = pd.read_parquet(reviews / "reviews.parquet")
    texts = frame.loc[frame["split"].isin(spec["splits"]), "text"]
    texts = texts.sample(frac=1, random_state=spec["seed"])[: spec["reviews"]]
    if texts.empty:
        found = ", ".join(sorted(frame["split"].unique()))
        raise UserError(
            f"{reviews}: expected reviews of the splits {spec['splits']}, found {found}; "
            "correct assets.base.reviews.splits or assets.reviews"
        )
    if feedback:
        texts = pd.concat([texts, read_reviews(feedback, "train", [DOMAIN])["text"]])
    tokenizer = train_tokenizer(texts, spec["vocabulary"], out / "model")
    torch.manual_seed(spec["seed"])
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=spec["positions"],
            n_embd=spec["width"],
            n_layer=spec["layers"],
            n_head=spec["heads"],
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            attn_implementation=runtime.attention,
        )
    )
    model = model.to(runtime.device).eval()  # eval: no dropout, since the corpus is too large for the model to memorise
    rows = token_rows(texts, tokenizer, spec["max_tokens"], first_only=spec["first_only"])
    how = {"epochs": spec["epochs"], "optimiser": optimiser_of(spec), "seed": spec["seed"]}
    curve = train_language_model(model, rows, **how, runtime=runtime, resume=resume)
    curve.to_csv(out / "curve.csv", index=False)
    model.save_pretrained(out / "model")
