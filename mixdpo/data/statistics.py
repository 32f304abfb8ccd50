"""Statistics over prompts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 9999
"""Resamples of every bootstrap."""


def mean_and_se(values) -> tuple[float, float]:
    """Mean and its standard error SD/√n (ddof = 1); the SE of a single value is NaN."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(stats.sem(values)) if len(values) > 1 else float("nan")


@dataclass(frozen=True)
class Effect:
    """An effect with its standard error, 95 % interval [low, high], p of "no effect", and n, the units behind it."""

    effect: float
    se: float
    low: float
    high: float
    p: float
    n: int


def paired(a, b, seed: int) -> Effect:
    """Mean of a − b over units: SE SD/√n, percentile bootstrap interval, two-sided Wilcoxon signed-rank p.

    Differences of zero are not ranked; if all are zero, p is 1.
    """
    d = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    mean, se = mean_and_se(d)
    p = float(stats.wilcoxon(d).pvalue) if d.any() else 1.0
    return Effect(mean, se, *_interval((d,), np.mean, seed), p, len(d))


def unpaired(a, b, seed: int) -> Effect:
    """mean(a) − mean(b) of two samples: Welch's SE, percentile bootstrap interval, two-sided Mann–Whitney p."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)

    def difference(x, y, axis):
        return x.mean(axis=axis) - y.mean(axis=axis)

    se = float(np.hypot(mean_and_se(a)[1], mean_and_se(b)[1]))
    p = float(stats.mannwhitneyu(a, b).pvalue)
    return Effect(float(a.mean() - b.mean()), se, *_interval((a, b), difference, seed), p, len(a) + len(b))


def _interval(samples: tuple, statistic, seed: int) -> tuple[float, float]:
    """NaN where a sample has a single value, which cannot be resampled."""
    if min(map(len, samples)) < 2:
        return float("nan"), float("nan")
    found = stats.bootstrap(
        samples, statistic, n_resamples=RESAMPLES, batch=500, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(found.low), float(found.high)


def proportion(share: float, n: int, chance: float = 0.0) -> Effect:
    """share − chance of n trials: binomial SE, Wilson's interval, one-sided exact p of share ≤ chance."""
    from statsmodels.stats.proportion import proportion_confint  # of mixdpo[workflow]: training does without

    successes = round(share * n)
    low, high = proportion_confint(successes, n, method="wilson")
    p = float(stats.binomtest(successes, n, chance, alternative="greater").pvalue)
    return Effect(share - chance, float(np.sqrt(share * (1 - share) / n)), low - chance, high - chance, p, n)


def equivalence(effect: float, se: float, target: float, margin: float) -> float:
    """p of two one-sided z-tests (TOST): small if the effect lies within `margin` of `target`."""
    if se == 0:
        return float(abs(effect - target) >= margin)
    return float(stats.norm.sf((margin - abs(effect - target)) / se))


def against_published(mean: float, se: float, published_mean: float, published_se: float) -> tuple[float, float]:
    """z-test of two independent means with both standard errors: z = (mean − published)/√(SE² + SE²), two-sided p."""
    z = (mean - published_mean) / np.hypot(se, published_se)
    return float(z), float(2 * stats.norm.sf(abs(z)))


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values with Holm's correction (family-wise error), in the order given; NaN does not count as a comparison."""
    from statsmodels.stats.multitest import multipletests  # as above

    p = np.asarray(p, dtype=float)
    corrected, tested = np.full(len(p), np.nan), ~np.isnan(p)
    if tested.any():
        corrected[tested] = multipletests(p[tested], method="holm")[1]
    return corrected
