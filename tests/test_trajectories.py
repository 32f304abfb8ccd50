"""Training takes the steps that are on record: see trajectories.py."""

import json

import numpy as np
import pandas as pd
import pytest
import trajectories


@pytest.fixture(scope="module")
def found() -> dict[str, pd.DataFrame]:
    return trajectories.curves()


@pytest.mark.parametrize("name", trajectories.METHODS)
def test_the_curve_is_the_golden_one(found, name):
    golden = pd.DataFrame(json.loads(trajectories.FILE.read_text())["curves"][name])
    assert list(found[name]) == list(golden)
    for curve in found[name], golden:
        curve.loc[0, "accuracy"] = np.nan  # DPO's margins are 0 at first: rounding would decide
    np.testing.assert_allclose(found[name], golden, rtol=2e-4, atol=2e-5)


def test_dpo_starts_at_the_logarithm_of_two(found):
    assert found["DPO"]["loss"][0] == pytest.approx(np.log(2), abs=1e-6)
