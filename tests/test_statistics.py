"""Statistics on numbers worked by hand."""

import numpy as np
import pytest
from scipy import stats

from mixdpo.data.statistics import against_published, equivalence, holm, mean_and_se, paired, proportion, unpaired


def test_mean_and_se():
    """Of 1, 2, 3: mean 2, SD 1, SE 1/√3."""
    assert mean_and_se([1, 2, 3]) == (2.0, pytest.approx(1 / np.sqrt(3)))
    assert np.isnan(mean_and_se([1])[1])


def test_paired():
    """Differences 1, 2, 3, 4, 5: mean 3, SD √2.5, SE √0.5. All positive: of 2⁵ signs two are as extreme, p = 1/16."""
    found = paired([2, 4, 6, 8, 10], [1, 2, 3, 4, 5], seed=0)
    assert (found.effect, found.se, found.n) == (3.0, pytest.approx(np.sqrt(0.5)), 5)
    assert found.p == pytest.approx(1 / 16)
    assert (found.low, found.high) == (pytest.approx(1.8, abs=0.3), pytest.approx(4.2, abs=0.3)), "3 ± 1.96·√(0.5·4/5)"
    assert found == paired([2, 4, 6, 8, 10], [1, 2, 3, 4, 5], seed=0)


def test_paired_differences_of_zero():
    """Nothing differs: p is 1. Zeros take no part: three differences of one sign are as extreme as 2 of 2³ signs."""
    assert paired([1, 2], [1, 2], 0).p == 1.0
    assert paired([1, 2, 3, 4, 5], [1, 2, 2, 2, 2], 0).p == pytest.approx(1 / 4)


def test_unpaired():
    """Means 5 and 2, SD 1 each: SE √(2/3). Every a above every b: 2 of (6 choose 3) = 20 arrangements, p = 0.1."""
    found = unpaired([4, 5, 6], [1, 2, 3], 0)
    assert (found.effect, found.se, found.n) == (3.0, pytest.approx(np.sqrt(2 / 3)), 6)
    assert found.p == pytest.approx(0.1) and found.low < 3 < found.high
    assert np.isnan([unpaired([4], [1, 2], 0).low, unpaired([4], [1, 2], 0).se]).all(), "one value has no spread"


def test_proportion():
    """4 of 4 against 1/2: p = 1/16. 60 of 100: SE √(0.24/100), Wilson's centre (60 + z²/2)/(100 + z²)."""
    assert proportion(1.0, 4, 0.5).p == pytest.approx(1 / 16)
    found, z2 = proportion(0.6, 100, 0.5), stats.norm.ppf(0.975) ** 2
    assert (found.effect, found.se) == (pytest.approx(0.1), pytest.approx(np.sqrt(0.0024)))
    assert (found.low + found.high) / 2 == pytest.approx((60 + z2 / 2) / (100 + z2) - 0.5)


def test_equivalence():
    """Within 0.05 of 0.65 at 0.66 ± 0.02: z = (0.05 − 0.01)/0.02 = 2. At the margin p is 1/2, beyond it more."""
    assert equivalence(0.66, 0.02, 0.65, 0.05) == pytest.approx(stats.norm.sf(2))
    assert equivalence(0.70, 0.02, 0.65, 0.05) == pytest.approx(0.5)
    assert equivalence(0.80, 0.02, 0.65, 0.05) > 0.99
    assert (equivalence(0.0, 0.0, 0.0, 0.1), equivalence(0.2, 0.0, 0.0, 0.1)) == (0.0, 1.0)


def test_against_published():
    """0.7 ± 0.03 against 0.6 ± 0.04: z = 0.1/0.05 = 2."""
    z, p = against_published(0.7, 0.03, 0.6, 0.04)
    assert (z, p) == (pytest.approx(2), pytest.approx(2 * stats.norm.sf(2)))


def test_holm():
    """0.01·3, 0.02·2, 0.04·1, each at least the one before it: 0.03, 0.04, 0.04. NaN is no comparison."""
    assert holm([0.04, 0.01, np.nan, 0.02]) == pytest.approx([0.04, 0.03, np.nan, 0.04], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()
