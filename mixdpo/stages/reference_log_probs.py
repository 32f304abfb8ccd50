"""Log-probabilities under the reference policy: frozen, so computed once for every method and seed."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from mixdpo.method.language import TokenBatch, load_language_model, sequence_log_probs
from mixdpo.method.runtime import Runtime

Text = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt and its completion."""


@torch.no_grad()
def each_text(
    value: Callable[[TokenBatch], Tensor], texts: Iterable[Text], runtime: Runtime, batch_size: int = 64
) -> dict[Text, Tensor]:
    """`value` of every text: it maps a batch to a tensor with a row for each. Equal texts are computed once."""
    unique, values = sorted(set(texts), key=lambda text: (len(text[0]) + len(text[1]), text)), {}
    for i in tqdm(range(0, len(unique), batch_size), mininterval=2, unit="batch"):
        part = unique[i : i + batch_size]
        batch = TokenBatch.of([prompt for prompt, _ in part], [completion for _, completion in part], runtime.device)
        with runtime.autocast():
            values |= zip(part, value(batch).cpu(), strict=True)
    return values


def texts_of(prompts: Sequence, completions: Sequence) -> list[Text]:
    """Pairs of token ids, as keys."""
    return [(tuple(prompt), tuple(completion)) for prompt, completion in zip(prompts, completions, strict=True)]


def log_probs(model: PreTrainedModel, texts: Sequence[Text], runtime: Runtime) -> np.ndarray:
    """log π(y | x) of every text: (N,) float64."""
    values = each_text(lambda batch: sequence_log_probs(model, batch), texts, runtime)
    return np.array([values[text].item() for text in texts])


def reference_log_probs(
    out: Path, spec: dict, *, runtime: Runtime, resume: Path, reference: Path, preferences: Path
) -> None:
    """Write `train.parquet` and `validation.parquet`, row by row beside the preferences: chosen, rejected."""
    model = load_language_model(reference / "model", runtime)
    for split in ("train", "validation"):
        frame = pd.read_parquet(preferences / f"{split}.parquet")
        sides = [texts_of(frame["prompt_ids"], frame[f"{side}_ids"]) for side in ("chosen", "rejected")]
        both = log_probs(model, [*sides[0], *sides[1]], runtime).reshape(2, -1)
        pd.DataFrame({"chosen": both[0], "rejected": both[1]}).to_parquet(out / f"{split}.parquet", index=False)
