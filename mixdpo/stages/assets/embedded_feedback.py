"""Rated responses of the embedded world, through the same converter as real ones."""

from pathlib import Path

from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime
from mixdpo.stages.assets.feedback import write
from mixdpo.world import feedback


def embedded_feedback(out: Path, spec: dict, *, runtime: Runtime, resume: Path) -> None:
    """Write what the feedback stage writes: `instructions`, `test` of them test, with `responses` responses each."""
    n, test = spec["instructions"], spec["test"]
    if test >= n:
        raise UserError(f"assets.feedback.embedded.test: expected fewer than {n} instructions, found {test}; lower it")
    rows = list(feedback.rows(n, spec["responses"], spec["seed"]))
    write(out, rows, spec | {"test_share": test / n}, "assets.feedback.embedded")
