"""The sentiment classifier: a small DistilBERT trained on the run's labelled reviews, or a checkpoint."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import BertProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from mixdpo.errors import UserError
from mixdpo.method.fit import fit, optimiser_of, training_batches
from mixdpo.method.runtime import Runtime
from mixdpo.stages.assets.models import check, obtain


def train_tokenizer(texts: pd.Series, vocabulary: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE between [CLS] and [SEP], learned from `texts`.

    The library's WordPiece trainer gives another vocabulary on every call; this one gives the same.
    """
    bpe = ByteLevelBPETokenizer(lowercase=True)
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    bpe.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=list(names.values()), show_progress=False)
    bpe.post_processor = BertProcessing(*((token, bpe.token_to_id(token)) for token in ("[SEP]", "[CLS]")))
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, model_max_length=max_tokens, **names)


def crops(texts: list[str], rng: np.random.Generator, words: int) -> list[str]:
    """For each text, at most `words` consecutive words from anywhere in it, since completions are short."""
    pieces = []
    for text in texts:
        split = text.split()
        start = rng.integers(0, max(1, len(split) - words // 2))
        pieces.append(" ".join(split[start : start + words]))
    return pieces


def classifier(out: Path, spec: dict, *, runtime: Runtime, resume: Path, reviews: Path | None = None, **_: Path):
    """Write `model/`, a NEGATIVE/POSITIVE sequence classifier with its tokenizer; with source reviews, `curve.csv`."""
    if spec["source"] != "reviews":
        obtain("classifier", out, spec)
        check("classifier", out, AutoTokenizer.from_pretrained)
        check("classifier", out, AutoModelForSequenceClassification.from_pretrained)
        return
    frame = pd.read_parquet(reviews / "reviews.parquet")
    frame = frame[(frame["split"] == "train") & frame["label"].notna()]
    if set(frame["label"].unique()) != {0, 1}:
        found = frame["label"].value_counts().to_dict()
        raise UserError(f"{reviews}: expected training reviews of both labels 0 and 1, found {found}")
    frame = frame.sample(frac=1, random_state=spec["seed"])[: spec["reviews"]]
    labels = torch.tensor(frame["label"].astype(int).to_numpy())
    tokenizer = train_tokenizer(frame["text"], spec["vocabulary"], spec["max_tokens"])
    rng = np.random.default_rng(spec["seed"])
    texts = frame["text"].tolist() + crops(frame["text"].tolist(), rng, spec["crop_words"])
    rows = tokenizer(texts, truncation=True, max_length=spec["max_tokens"])["input_ids"]
    torch.manual_seed(spec["seed"])
    model = DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=spec["max_tokens"],
            n_layers=spec["layers"],
            n_heads=spec["heads"],
            dim=spec["width"],
            hidden_dim=4 * spec["width"],
            pad_token_id=tokenizer.pad_token_id,
            id2label={0: "NEGATIVE", 1: "POSITIVE"},
            label2id={"NEGATIVE": 0, "POSITIVE": 1},
        )
    )
    model = model.to(runtime.device).train()

    def parts(step: int) -> list[dict]:
        batch = batches[step]
        padded = tokenizer.pad({"input_ids": [rows[i] for i in batch]}, return_tensors="pt")
        return [{"ids": padded["input_ids"], "mask": padded["attention_mask"], "labels": labels[batch % len(labels)]}]

    def loss(part: dict):
        logits, truth = model(input_ids=part["ids"], attention_mask=part["mask"]).logits.float(), part["labels"]
        return F.cross_entropy(logits, truth), {"accuracy": (logits.argmax(1) == truth).float().mean()}

    optimiser, seed = optimiser_of(spec), spec["seed"]
    lengths, batch_size = [len(row) for row in rows], optimiser.batch_size
    batches = training_batches(lengths, epochs=spec["epochs"], batch_size=batch_size, seed=seed)
    curve = fit(model, len(batches), parts, loss, optimiser=optimiser, seed=seed, runtime=runtime, resume=resume)
    curve.to_csv(out / "curve.csv", index=False)
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
