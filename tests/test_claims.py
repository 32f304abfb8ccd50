"""Comparisons, effects and verdicts on numbers worked by hand."""

import numpy as np
import pandas as pd
import pytest
from conftest import shown
from planted import whole

from mixdpo.paper import measures
from mixdpo.paper.claims import claims_table, judged, published_effect, sensitivity_table, verdict
from mixdpo.paper.comparisons import comparisons_table
from mixdpo.paper.measures import gate_accuracy, heads_told_by_words, leading, posterior_by_domain, style_recovery
from mixdpo.run.kinds import MEASURES
from mixdpo.run.published import resolved

PRINTED = {
    "experiment": "e",
    "rows": [
        {"name": "DPO", "policy": "dpo", "published": {"joy": [{"mean": 0.5, "se": 0.03, "where": "T1"}]}},
        {
            "name": "Mix",
            "policy": "mix",
            "decoding": "token",
            "published": {"joy": [{"mean": 0.6, "se": 0.04, "where": "T1"}, {"mean": 0.9, "se": 0.04, "where": "T3"}]},
        },
        *(
            {
                "name": f"Head {k}",
                "policy": "mix",
                "decoding": f"expert{k}",
                "published": {"joy": [{"mean": mean, "se": se, "where": "T1"}]},
            }
            for k, (mean, se) in enumerate([(0.8, 0.03), (0.4, 0.03), (0.2, 0.04)])
        ),
    ],
}
MIX = {"claim": "mix", "text": "Mix beats DPO", "where": "T1", "experiment": "e", "reward": "joy", "test": "greater"}
MIX |= {"policy": "mix", "decoding": "token", "baseline": "dpo"}


@pytest.fixture
def artifacts(tmp_path):
    """Two seeds, alike. Joy on 40 prompts, 0, 0, 1, 1 …: that of DPO. Mix has one more by token and as much by sequence.

    Even prompts are of movies; w0 is 0.9 there and 0.6 on books. Head 0 writes "so good", head 1 "so bad". q0 is 0.9
    on triplets of the style s, which are those of movies, and 0.2 on those of t.
    """
    prompts = pd.DataFrame({"prompt_id": range(40), "domain": ["movie", "book"] * 20})
    base = np.array([0.0, 0.0, 1.0, 1.0] * 10)
    joys = {"dpo": {"token": base}}
    joys["mix"] = {"token": base + 1, "sequence": base, "expert0": base + 2, "expert1": base}
    folders = {}
    for method, decodings in joys.items():
        own = {stage: tmp_path / method / stage for stage in ("completions", "rewards", "policies")}
        frame = pd.concat([prompts.assign(sample=0, decoding=name, joy=joy) for name, joy in decodings.items()])
        frame["completion"] = np.where(frame["decoding"] == "expert0", "so good", "so bad")
        q = pd.DataFrame({"style": ["s", "t"] * 30, "domain": ["movie", "book"] * 30, "q0": [0.9, 0.2] * 30})
        for folder in own.values():
            folder.mkdir(parents=True)
        frame[["prompt_id", "sample", "decoding", "joy"]].to_parquet(own["rewards"] / "scores.parquet")
        frame.drop(columns="joy").to_parquet(own["completions"] / "completions.parquet")
        w0 = np.where(prompts["domain"] == "movie", 0.9, 0.6)
        prompts.assign(w0=w0, w1=1 - w0).to_parquet(own["completions"] / "weights.parquet")
        whole(q.assign(q1=1 - q["q0"])).to_parquet(own["policies"] / "responsibilities.parquet")
        folders |= {f"{stage}:e/{method}/seed{seed}": folder for stage, folder in own.items() for seed in (0, 1)}
    return folders


def within_e(artifacts):
    return {name.replace("e/", "", 1): folder for name, folder in artifacts.items()}


def test_comparisons_table(artifacts):
    """By token every prompt gains 1, by sequence none. Published: 0.6 − 0.5 ± √(0.03² + 0.04²) = 0.05."""
    table = {"experiment": "e", "rows_of": ["t"], "baseline": "dpo", "columns": {"joy": "Joy"}, "seed": 0}
    table = resolved(table, {"t": PRINTED})
    table["rows"] = [*table["rows"][:2], {"name": "Mix, by sequence", "policy": "mix", "decoding": "sequence"}]
    made = comparisons_table(table, within_e(artifacts))
    cells, grid = made.numbers(), shown(made)
    assert cells["row"].tolist() == ["Mix", "Mix", "Mix, by sequence"], "a line a published value; DPO is the baseline"
    assert cells[["effect", "se", "low", "high", "n"]].values.tolist() == [[1, 0, 1, 1, 40]] * 2 + [[0, 0, 0, 0, 40]]
    assert cells["p_holm"].tolist() == pytest.approx([2 * cells["p"][0]] * 2 + [1.0])
    assert cells["published"].tolist() == pytest.approx([0.1, 0.4, np.nan], nan_ok=True)
    assert cells["z"].tolist() == pytest.approx([(1 - 0.1) / 0.05, (1 - 0.4) / 0.05, np.nan], nan_ok=True)
    level = (1.5 - 0.6) / np.hypot(0.04, np.sqrt(0.25 * 40 / 39 / 40))  # seeds that agree add nothing
    assert cells["level_z"][0] == pytest.approx(level)
    assert grid["p (Holm, 2)"].tolist() == ["<0.001", "1.000"]
    assert grid.loc[0, "Difference, published"] == "+0.100 ± 0.050 (T1); +0.400 ± 0.050 (T3)"
    assert grid.loc[0, "z against the published"] == "+18.0 (T1); +12.0 (T3)"
    assert (grid.loc[1, "Difference, published"], grid.loc[1, "z against the published"]) == ("", "–")


def test_published_effects_come_from_the_cells():
    """0.1 ± 0.05; in SDs of the baseline, 0.03·√100 = 0.3: 1/3. Best 0.8, rest (0.4 + 0.2)/2 = 0.3 ± √(0.03² + 0.04²)/2."""
    table = resolved({"rows": [], "cells_of": ["t"], "published_prompts": {"e": 100}}, {"t": PRINTED})
    assert published_effect(table, MIX) == pytest.approx((0.1, 0.05, 1 / 3))
    assert published_effect(table, MIX | {"cell": "T3"})[0] == pytest.approx(0.4)
    assert published_effect(table, MIX | {"reward": ["joy", "joy"]}) == pytest.approx(
        (1 / 3, 0.05 / 0.3 / 2**0.5, 1 / 3)
    )
    heads = MIX | {"decoding": "best", "baseline": "mix", "baseline_decoding": "rest"}
    assert published_effect(table, heads) == pytest.approx((0.5, np.hypot(0.03, 0.025), 0.5 / 0.3))
    assert published_effect(table, MIX | {"published": {"effect": 0.65}})[0] == 0.65
    assert np.isnan(published_effect(table, MIX | {"policy": "other"})).all()


@pytest.mark.parametrize(
    ("row", "low", "high", "p_holm", "size", "expected"),
    [
        ({}, 0.1, 0.3, 0.01, 0.5, "supported"),
        ({"test": "less"}, -0.3, -0.1, 0.01, -0.5, "supported"),
        ({}, 0.1, 0.3, 0.20, 0.5, "undecided"),  # not after Holm
        ({}, -0.3, -0.1, 0.01, 0.5, "not supported"),  # the opposite
        ({"test": "less"}, 0.1, 0.3, 0.01, -0.5, "not supported"),
        ({}, -0.1, 0.3, 0.50, 0.5, "not supported"),  # excludes the published size
        ({"test": "less"}, -0.3, 0.1, 0.50, -0.5, "not supported"),
        ({}, -0.1, 0.6, 0.50, 0.5, "undecided"),  # no power
        ({}, -0.1, 0.3, 0.50, np.nan, "undecided"),  # the paper prints no size
        ({}, -0.1, 0.3, 0.50, -0.2, "undecided"),  # its numbers contradict its words: their size counts
        ({}, -0.1, 0.1, 0.50, -0.2, "not supported"),
        ({"test": "less"}, -0.1, 0.1, 0.50, 0.2, "not supported"),
        ({}, -0.3, -0.1, 0.20, np.nan, "undecided"),  # the opposite, but not after Holm
        ({}, -0.3, -0.1, 0.20, 0.5, "not supported"),  # and yet smaller than published
        ({"test": "less"}, 0.1, 0.3, 0.20, np.nan, "undecided"),
        ({"smallest": 0.5}, 0.1, 0.3, 0.01, 0.5, "not supported"),
        ({"test": "equal", "target": 0.1, "margin": 0.2}, 0.0, 0.2, 0.01, np.nan, "supported"),
        ({"test": "equal", "target": 0.1, "margin": 0.2}, 0.2, 0.4, 0.30, np.nan, "undecided"),
        ({"test": "equal", "target": 0.1, "margin": 0.2}, 0.31, 0.4, 1.0, np.nan, "not supported"),
        ({"test": "none", "reason": "no data"}, np.nan, np.nan, np.nan, np.nan, "not tested"),
    ],
)
def test_verdict(row, low, high, p_holm, size, expected):
    found = {"low": low, "high": high, "p_holm": p_holm, "size": size}
    row = {"test": "greater"} | row
    assert verdict(row, found | {"seeds": 5})[0] == verdict(row, found | {"seeds": 0})[0] == expected
    one = ("not tested", "no data") if expected == "not tested" else ("not judged", "one seed")
    assert verdict(row, found | {"seeds": 1}) == one


def test_leading_head_is_chosen_on_the_other_half():
    """Head 0 leads on even prompts, head 1 on odd ones: each half is judged by the head that leads on the other, 0 − 1.

    Of two rewards, each takes a head of its own.
    """
    scores = np.zeros((4, 2, 1))
    scores[[0, 2], 0], scores[[1, 3], 1] = 1, 1
    best, rest = leading(scores)
    assert best.ravel().tolist() == [0, 0, 0, 0] and rest.ravel().tolist() == [1, 1, 1, 1]
    best, rest = leading(np.tile([[3.0, 2.0], [1.0, 1.0]], (4, 1, 1)))  # head 0 is above head 1 in both, by 2 and 1
    assert best.tolist() == [[3.0, 1.0]] * 4 and rest.tolist() == [[1.0, 2.0]] * 4


def test_claims_table(artifacts):
    """Every prompt gains 1, which is 1/SD of the baseline's scores; the second claim is not tested."""
    rows = [MIX, {"claim": "far", "text": "Far", "where": "poster", "test": "none", "reason": "no data"}]
    table = {"rows": rows, "cells_of": ["t"], "published_prompts": {"e": 100}, "seed": 0, "experiments": ["e"]}
    made = claims_table(resolved(table, {"t": PRINTED}), artifacts)
    cells, grid = made.numbers(), shown(made)
    columns = "claim text where published experiment test effect se low high p p_holm n seeds verdict"
    columns += " reason effect_sigma low_sigma high_sigma published_sigma"
    assert " ".join(cells) == columns
    assert cells.loc[0, ["published", "effect", "n", "seeds", "verdict"]].tolist() == [
        pytest.approx(0.1),
        1.0,
        40,
        2,
        "supported",
    ]
    assert cells["p_holm"][0] == cells["p"][0] and cells.loc[1, "verdict"] == "not tested"
    deviation = np.std([0.0, 1.0] * 20, ddof=1)
    assert grid.loc[0, "Ours"] == f"+1.000 ± 0.000 ({1 / deviation:+.2f} σ)"
    assert grid.loc[0, "Ours, published"] == "+0.100 ± 0.050 (+0.33 σ)" and grid.loc[1, "Ours"] == "–"
    assert grid["Verdict"].tolist() == ["supported", "not tested: no data"]
    in_sigma = cells.loc[0, ["effect_sigma", "low_sigma", "high_sigma", "published_sigma"]].tolist()
    assert in_sigma == pytest.approx([1 / deviation] * 3 + [1 / 3])
    told = made.json(name="claims")["printed"][0]["rows"][0][2]
    assert (told["row"], told["policy"], told["decoding"], told["experiment"]) == ("mix", "mix", "token", "e")
    assert told["records"][0]["n"] == "40" and told["records"][0]["reason"] == ""


def test_one_seed_is_not_judged(artifacts):
    """The effect and its interval over prompts are printed; Holm counts what is judged."""
    one = {name: folder for name, folder in artifacts.items() if name.endswith("seed0")}
    claims = [MIX, MIX | {"claim": "same", "test": "equal", "target": 1, "margin": 0.5}]
    table = {"rows": claims, "cells_of": ["t"], "published_prompts": {"e": 100}, "seed": 0, "experiments": ["e"]}
    made = claims_table(resolved(table, {"t": PRINTED}), one)
    cells, grid = made.numbers(), shown(made)
    assert cells["verdict"].tolist() == ["not judged"] * 2 and cells["reason"].tolist() == ["one seed"] * 2
    assert cells[["effect", "low", "high", "n", "seeds"]].values.tolist() == [[1, 1, 1, 40, 1]] * 2
    assert cells["p_holm"].isna().all() and grid["p (Holm, 0)"].tolist() == ["–", "–"]
    assert grid["Verdict"].tolist() == ["not judged: one seed"] * 2


def test_the_unit_of_rewards_does_not_shrink_with_seeds(artifacts):
    """σ is the SD over prompts within a seed: also where what two seeds have in common is nothing."""
    own = within_e(artifacts)
    frame = pd.read_parquet(own["rewards:dpo/seed0"] / "scores.parquet")
    other = own["rewards:dpo/seed0"].parent / "other"
    other.mkdir()
    frame.assign(joy=1 - frame["joy"]).to_parquet(other / "scores.parquet")
    _, unit = measures.reward(MIX, own | {"rewards:dpo/seed1": other}, 0)
    assert unit == pytest.approx(np.std([0.0, 1.0] * 20, ddof=1))


def test_sensitivity_table(artifacts):
    """By sequence nothing is gained, and the interval [0, 0] excludes the published third of an SD."""
    claims = {"experiment": "e", "rows": [MIX, MIX | {"claim": "only", "text": "Only", "decoding": "expert0"}]}
    table = {"rows_of": ["c"], "cells_of": ["t"], "published_prompts": {"e": 100}, "seed": 0, "experiments": ["e"]}
    table["settings"] = [{"name": "As claimed"}, {"name": "By sequence", "decoding": "sequence"}]
    table["settings"].append({"name": "Other", "methods": {"dpo": "dpo"}})
    made = sensitivity_table(resolved(table, {"c": claims, "t": PRINTED}), artifacts)
    cells, grid = made.numbers(), shown(made)[[*made.headings]]
    line = {"Claim": "Mix beats DPO", "As claimed": "✓ +1.000", "By sequence": "✗ +0.000", "Other": "–"}
    assert grid.to_dict("records") == [line], "no setting touches the other claim"
    assert cells["setting"].tolist() == ["As claimed", "By sequence"]


def test_measures_of_heads_and_gates(artifacts):
    """Styles alternate with q, words tell the heads, and the gate sends every prompt to movies: right on half."""
    own, row = within_e(artifacts), {"policy": "mix", "domains": ["movie", "book"]}
    assert style_recovery(row, own, 0)[0].effect == 0, "a pair of one triplet has no other deal"
    assert heads_told_by_words(row, own, 0)[0].effect == 0.5
    assert posterior_by_domain(row, own, 0)[0].effect == pytest.approx(0.9 - 0.2)
    assert gate_accuracy(row, own, 0)[0].effect == 0.5
    assert gate_accuracy(row | {"baseline": "mix"}, own, 0)[0].effect == 0


def test_a_claim_of_an_experiment_left_out_is_not_tested():
    row = {"claim": "c", "text": "T", "where": "here", "experiment": "users", "measure": "win_rate", "test": "greater"}
    cells = judged(
        {"experiments": ["e"], "cells": {}, "seed": 0}, [row | {"published": {"effect": 0.05, "se": 0.03}}], {}
    )
    assert cells["verdict"].tolist() == ["not tested"] and cells["reason"].tolist() == ["no part of this run: users"]
    assert np.isnan(cells["effect"][0]) and cells["published"][0] == 0.05


def test_a_win_rate_can_be_smaller_than_claimed():
    row = {"test": "greater", "measure": "win_rate"}
    found = {
        "low": -0.01,
        "high": 0.02,
        "p_holm": 1.0,
        "size": 0.048,
        "effect": 0.005,
        "se": 0.007,
        "p": 0.5,
        "seeds": 3,
    }
    assert verdict(row, found) == ("not supported", "smaller than claimed")


def test_every_measure_has_a_function_of_its_name():
    assert all(callable(getattr(measures, name)) for name in MEASURES)
