"""Statistics over prompts and seeds."""

import numpy as np
from scipy import stats


def mean_and_se(values) -> tuple[float, float]:
    """Mean and its standard error SD/√n (ddof = 1); the SE of a single value is NaN."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(stats.sem(values)) if len(values) > 1 else float("nan")
