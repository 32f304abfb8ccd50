"""Statistics over prompts and seeds."""

import numpy as np
import pandas as pd
from scipy import stats


def mean_and_se(values) -> tuple[float, float]:
    """Mean and its standard error SD/√n (ddof = 1); the SE of a single value is NaN."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(stats.sem(values)) if len(values) > 1 else float("nan")


def standardised(scores: pd.DataFrame, reference: pd.DataFrame, rewards: list[str]) -> pd.Series:
    """Mean over `rewards` of (score − reference mean) / reference SD: one number per completion, no unit."""
    return ((scores[rewards] - reference[rewards].mean()) / reference[rewards].std()).mean(axis=1)
