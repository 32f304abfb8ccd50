"""Numbers as a table prints them, with a minus sign before what is negative."""

from collections.abc import Callable, Sequence

import numpy as np


def number(value: float, digits: int = 3, sign: str = "-") -> str:
    """With the `sign` "+" positive values have theirs too; a dash if there is no value."""
    return "–" if np.isnan(value) else f"{value:{sign}z,.{digits}f}".replace("-", "−")


def show(mean: float, se: float, digits: int = 3, sign: str = "-") -> str:
    """Mean ± SE; a dash without a mean, no SE where it is unknown."""
    known = not (np.isnan(mean) or np.isnan(se))
    return number(mean, digits, sign) + (f" ± {number(se, digits)}" if known else "")


def percent(share: float, se: float) -> str:
    """A share ± SE in percent."""
    return show(100 * share, 100 * se, 1)


def interval(low: float, high: float, sign: str = "+", digits: int = 3) -> str:
    return "–" if np.isnan(low) else f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else number(p)


def in_print(values: Sequence[dict], shown: Callable[[float, float], str] = show) -> list[str]:
    """Published values as text, each once; where they differ, each with its place."""
    texts = [shown(value["mean"], value["se"]) for value in values]
    several = len(set(texts)) > 1
    placed = [f"{text} ({value['where']})" if several else text for text, value in zip(texts, values, strict=True)]
    return list(dict.fromkeys(placed))


def beside(ours: dict, values: Sequence[dict]) -> list[dict]:
    """Our line of the csv, once for each published value of the same cell, or once without any."""
    nothing = {"mean": np.nan, "se": np.nan, "where": ""}
    return [
        ours | {"published_mean": value["mean"], "published_se": value["se"], "published_where": value["where"]}
        for value in values or [nothing]
    ]
