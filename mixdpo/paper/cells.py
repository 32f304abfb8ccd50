"""A cell of a table: a mean with its standard error, and how it is printed."""

import numpy as np
import pandas as pd

from mixdpo.data.statistics import mean_and_se
from mixdpo.paper.scores import per_prompt


def cell(row: str, column: str, frame: pd.DataFrame) -> dict:
    """Mean ± SE over test prompts, and the spread (SD) of the means of several training seeds."""
    mean, se = mean_and_se(per_prompt(frame, column))
    seeds = frame.groupby("seed")[column].mean()
    return {
        "row": row,
        "column": column,
        "mean": mean,
        "se": se,
        "prompts": frame["prompt_id"].nunique(),
        "seeds": len(seeds),
        "seed_sd": seeds.std() if len(seeds) > 1 else np.nan,
    }


def show(mean: float, se: float, digits: int = 3) -> str:
    return f"{mean:.{digits}f} ± {se:.{digits}f}"


def percent(share: float, se: float) -> str:
    """A share ± SE in percent; a dash if there is none, no SE of a single value."""
    if np.isnan(share):
        return "–"
    return f"{100 * share:.1f}" if np.isnan(se) else show(100 * share, 100 * se, 1)
