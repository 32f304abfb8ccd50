"""From preferences in text to triplets of token ids, divided into those for training and those for validation."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from mixdpo.data.preferences import TEXTS, read_preferences
from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime
from mixdpo.stages.preferences import validation_prompts


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """A table as the content of a parquet file: the same table gives the same bytes."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def given(out: Path, spec: dict, *, runtime: Runtime, resume: Path, content: bytes) -> None:
    """Write `preferences.parquet`: preferences from memory, so that all later steps read a file."""
    (out / "preferences.parquet").write_bytes(content)


def own_preferences(out: Path, spec: dict, *, runtime: Runtime, resume: Path, reference: Path, file: Path) -> None:
    """Write `train.parquet` and `validation.parquet`, split by prompt, in the columns of the preferences stage.

    A completion ends with end-of-text. `counts.json` counts the triplets of both, and those dropped: `equal`, chosen =
    rejected, and `long`, prompt and completion beyond `max_tokens` or the model's positions.
    """
    frame, tokenizer = read_preferences(file), AutoTokenizer.from_pretrained(reference / "model")
    limit = min(positions_of(AutoConfig.from_pretrained(reference / "model")), spec["max_tokens"] or np.inf)
    add_ids(frame, tokenizer, file.name)
    completion = np.maximum(frame["chosen_ids"].str.len(), frame["rejected_ids"].str.len())
    equal, long = frame["chosen"] == frame["rejected"], frame["prompt_ids"].str.len() + completion > limit
    kept = frame[~equal & ~long].reset_index(drop=True)
    kept.insert(0, "prompt_id", pd.factorize(kept["prompt"])[0])
    held_out = validation_prompts(kept["prompt_id"].unique(), kept, spec["validation_share"], spec["seed"])
    held_out = kept["prompt_id"].isin(held_out)
    if held_out.all() or not held_out.any():
        raise UserError(
            f"{file.name}: expected at least two prompts, and two of some user if there are users, found "
            f"{kept['prompt_id'].nunique()} in the {len(kept)} kept of {len(frame)} triplets (dropped: {equal.sum()} "
            f"with chosen = rejected, {(~equal & long).sum()} of more than {limit:g} tokens); give it more"
        )
    counts = {"equal": int(equal.sum()), "long": int((~equal & long).sum()), "max_tokens": f"{limit:g}"}
    for name, part in ("train", kept[~held_out]), ("validation", kept[held_out]):
        part.to_parquet(out / f"{name}.parquet", index=False)
        counts[name] = len(part)
    (out / "counts.json").write_text(json.dumps(counts))


def add_ids(frame: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Add prompt_ids, and chosen_ids and rejected_ids with their end-of-text, to `frame`."""
    for column in TEXTS:
        ids = tokenizer(frame[column].tolist(), add_special_tokens=column == "prompt")["input_ids"]
        if empty := next((row for row, tokens in enumerate(ids, 1) if not tokens), None):
            raise UserError(f"{name}: expected a {column} with tokens, found none in row {empty}; fill or drop the row")
        end = [] if column == "prompt" else [tokenizer.eos_token_id]
        frame[f"{column}_ids"] = [[*tokens, *end] for tokens in ids]


def positions_of(config) -> float:
    """The longest sequence of a model with this configuration; ∞ if it states none."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or np.inf
