"""Log-probabilities under the reference policy: frozen, so computed once for every method and seed."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
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
    """Write a file for each parquet file of the preferences, row by row beside it: chosen, rejected."""
    model = load_language_model(reference / "model", runtime)
    files = sorted(preferences.glob("*.parquet"))
    frames = [pd.read_parquet(file, columns=["prompt_ids", "chosen_ids", "rejected_ids"]) for file in files]
    texts = [texts_of(f["prompt_ids"], f[side]) for f in frames for side in ("chosen_ids", "rejected_ids")]
    values = log_probs(model, list(chain(*texts)), runtime)  # of all files at once: they share texts
    sides = np.split(values, np.cumsum([len(side) for side in texts])[:-1])
    for file, chosen, rejected in zip(files, sides[::2], sides[1::2], strict=True):
        pd.DataFrame({"chosen": chosen, "rejected": rejected}).to_parquet(out / file.name, index=False)
