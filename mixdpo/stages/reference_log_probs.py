"""Log-probabilities under the reference policy: frozen, so computed once for every method and seed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from mixdpo.method.language import TokenBatch, load_language_model, sequence_log_probs
from mixdpo.method.runtime import Runtime


@torch.no_grad()
def log_probs(
    value: Callable[[TokenBatch, Sequence], Tensor],
    prompts: Sequence,
    completions: Sequence,
    runtime: Runtime,
    contexts: Sequence = (),
    batch_size: int = 64,
) -> np.ndarray:
    """log π(y | x) of every (prompt, completion) pair of token ids: (N,) float64; equal ones are computed once.

    `value` maps a batch and the rows' `contexts`, which say what log π(y | x) depends on beside the texts, to (N,).
    """
    contexts = contexts if len(contexts) else [0] * len(prompts)
    rows = [(tuple(p), tuple(c), x) for p, c, x in zip(prompts, completions, contexts, strict=True)]
    unique = sorted(set(rows), key=lambda row: (len(row[0]) + len(row[1]), row))
    values = {}
    for i in tqdm(range(0, len(unique), batch_size), mininterval=2, unit="batch"):
        part = unique[i : i + batch_size]
        batch = TokenBatch.of([p for p, _, _ in part], [c for _, c, _ in part], runtime.device)
        with runtime.autocast():
            values |= zip(part, value(batch, [x for _, _, x in part]).tolist(), strict=True)
    return np.array([values[row] for row in rows])


def reference_log_probs(
    out: Path, spec: dict, *, runtime: Runtime, resume: Path, reference: Path, preferences: Path
) -> None:
    """Write `train.parquet` and `validation.parquet`, row by row beside the preferences: chosen, rejected."""
    model = load_language_model(reference / "model", runtime)
    for split in ("train", "validation"):
        frame = pd.read_parquet(preferences / f"{split}.parquet")
        prompts, n = frame["prompt_ids"].tolist(), len(frame)
        texts = [*frame["chosen_ids"], *frame["rejected_ids"]]
        both = log_probs(lambda batch, _: sequence_log_probs(model, batch), prompts * 2, texts, runtime)
        pd.DataFrame({"chosen": both[:n], "rejected": both[n:]}).to_parquet(out / f"{split}.parquet", index=False)
