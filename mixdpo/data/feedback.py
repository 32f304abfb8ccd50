"""The one form of rated responses, whatever their source: a parquet file with one row for each response."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mixdpo.errors import UserError

DOMAIN = "instruction"
"""The domain of these texts, beside the domains of reviews."""


def columns(aspects: Sequence[str]) -> list[str]:
    """The columns of `feedback.parquet`, one for each aspect that is rated.

    prompt_id numbers the instructions; ratings are float64 in [1, 5]; split is train or test, the same for an
    instruction. An aspect is a style of users: of two responses, a user prefers the one with the higher rating in it.
    """
    return ["prompt_id", "instruction", "response", "model", *aspects, "split"]


def read_feedback(folder: Path, split: str) -> pd.DataFrame:
    """Rows of `folder/feedback.parquet` of one split; `UserError` if there are none."""
    frame = pd.read_parquet(folder / "feedback.parquet")
    rows = frame[frame["split"] == split].reset_index(drop=True)
    if rows.empty:
        have = ", ".join(f"{n} of {s}" for s, n in frame["split"].value_counts().items())
        raise UserError(f"{folder}: expected {split} responses, found only {have}; correct assets.feedback")
    return rows
