"""spaCy with torch's matrix products, in as many processes as pay.

spaCy multiplies by the library BLIS, which does not know every processor: on one of a newer family its products take
several times as long as torch's.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import NumpyOps, set_current_ops

TEXTS = 500
"""Texts for which another process pays: below, starting it takes longer than it saves."""


class TorchOps(NumpyOps):
    """spaCy's operations on a processor, with the matrix product of torch, on as many threads as torch is given."""

    def gemm(self, x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None, trans1=False, trans2=False):
        x, y = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y))
        factors = (x.T if trans1 else x), (y.T if trans2 else y)
        if out is None:
            return torch.mm(*factors).numpy()
        torch.mm(*factors, out=torch.from_numpy(out))
        return out


def use_torch() -> None:
    """Pipelines that are made or loaded from now on multiply by torch."""
    set_current_ops(TorchOps())


def load(folder: Path) -> Language:
    """A pipeline without the components that no reward asks for."""
    use_torch()
    return spacy.load(folder, exclude=["lemmatizer", "attribute_ruler"])


def parse(nlp: Language, texts: Sequence[str], processes: int = 1) -> Iterator[Doc]:
    """The parsed texts in order, by at most `processes` processes."""
    processes = max(1, min(processes, len(texts) // TEXTS))
    if processes > 1:  # a forked process must not wait for threads of torch that it did not inherit
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
    return nlp.pipe(texts, batch_size=64, n_process=processes)
