"""Log-probabilities under the reference policy: frozen, so computed once for every method and seed."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from mixdpo.language import TokenBatch, load_language_model, sequence_log_probs
from mixdpo.runtime import Runtime


@torch.no_grad()
def log_probs(
    model: PreTrainedModel, prompts: list, completions: list, runtime: Runtime, batch_size: int = 64
) -> np.ndarray:
    """log π(y | x) of every (prompt, completion) pair of token ids: (N,) float64; equal pairs are computed once."""
    pairs = [(tuple(p), tuple(c)) for p, c in zip(prompts, completions, strict=True)]
    unique = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    values = {}
    for i in tqdm(range(0, len(unique), batch_size), mininterval=2, unit="batch"):
        part = unique[i : i + batch_size]
        batch = TokenBatch.of([p for p, _ in part], [c for _, c in part], runtime.device)
        with runtime.autocast():
            values |= zip(part, sequence_log_probs(model, batch).tolist(), strict=True)
    return np.array([values[pair] for pair in pairs])


def reference(out: Path, spec: dict, *, runtime: Runtime, resume: Path, policy: Path, preferences: Path) -> None:
    """Write `train.parquet` and `validation.parquet`, row by row beside the preferences: chosen, rejected."""
    model = load_language_model(policy / "model", runtime)
    for split in ("train", "validation"):
        frame = pd.read_parquet(preferences / f"{split}.parquet")
        prompts, n = frame["prompt_ids"].tolist(), len(frame)
        both = log_probs(model, prompts * 2, [*frame["chosen_ids"], *frame["rejected_ids"]], runtime)
        pd.DataFrame({"chosen": both[:n], "rejected": both[n:]}).to_parquet(out / f"{split}.parquet", index=False)
