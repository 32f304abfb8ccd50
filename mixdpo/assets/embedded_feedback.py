"""Rated responses of the embedded world, through the same converter as real ones."""

from pathlib import Path

from mixdpo.assets.embedded import feedback
from mixdpo.assets.feedback import write
from mixdpo.errors import UserError
from mixdpo.runtime import Runtime


def embedded_feedback(out: Path, spec: dict, *, runtime: Runtime, resume: Path) -> None:
    """Write what the feedback stage writes: `instructions`, `test` of them test, with `responses` responses each."""
    n, test = spec["instructions"], spec["test"]
    if test >= n:
        raise UserError(f"assets.feedback.embedded.test: expected fewer than {n} instructions, found {test}; lower it")
    rows = list(feedback.rows(n, spec["responses"], spec["seed"]))
    write(out, rows, spec | {"test_share": test / n}, "assets.feedback.embedded")
