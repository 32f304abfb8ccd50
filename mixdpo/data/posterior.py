"""Which expert an annotator's comparisons speak for."""

import numpy as np
from scipy.special import log_expit, logsumexp


def posterior(prior: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Weights (…, K) of the experts for an annotator with m comparisons: ∝ prior_k ∏ σ(margin_k); the prior if m = 0.

    prior (…, K) sums to 1 over the experts; margins (…, m, K) are r_k(y⁺) − r_k(y⁻), as in (4), of the annotator's
    comparisons.

    By hand, K = 2: prior (1/2, 1/2) and one comparison with margins (log 3, 0) give σ = (3/4, 1/2), so (3/5, 2/5).
    """
    with np.errstate(divide="ignore"):  # a prior of 0 stays 0
        scores = np.log(prior) + log_expit(margins).sum(axis=-2)
    return np.exp(scores - logsumexp(scores, axis=-1, keepdims=True))


def log_preference(weights: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """log P(y⁺ ≻ y⁻) of (5) under the experts' weights: weights and margins (…, K) → (…)."""
    with np.errstate(divide="ignore"):
        return logsumexp(np.log(weights) + log_expit(margins), axis=-1)
