"""Every measure that a claim rests on reaches its ceiling on planted specialists, and its floor on copies."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted import DRIFTED, STYLES, mixture, posterior

from mixdpo.data.statistics import share
from mixdpo.paper import measures
from mixdpo.paper.claims import verdict
from mixdpo.paper.recovery import at_their_expert, correlation_of_margins, recovered
from mixdpo.run.kinds import MEASURES

KINDS_OF_EXPERTS = ["specialists", "copies"]
DOMAINS = ["movie", "book"]
PROMPTS = pd.DataFrame({"prompt_id": range(40), "sample": 0, "domain": DOMAINS * 20})


def run(folder: Path, write, method: str = "mix") -> dict[str, Path]:
    """Three seeds of a method; `write` puts the files of a seed into its folder, which is that of every stage."""
    artifacts = {}
    for seed in range(3):
        own = folder / method / str(seed)
        own.mkdir(parents=True)
        write(own, seed)
        stages = ("policies", "completions", "rewards", "judgements")
        artifacts |= {f"{stage}:{method}/seed{seed}": own for stage in stages}
    return artifacts


def of_styles(kind: str, weights=DRIFTED):
    """Three experts, numbered anew in each seed."""

    def write(folder: Path, seed: int) -> None:
        frame = mixture(kind, weights, seed)
        moved = {f"margin{k}": frame[f"margin{(k + seed) % 3}"] for k in range(3)}
        frame = frame.assign(**moved)
        frame.update(posterior(frame, weights))
        frame.to_parquet(folder / "responsibilities.parquet")

    return write


def of_domains(kind: str, gate: float):
    """Two experts under a gate that gives a prompt's domain the weight `gate`; a specialist is right in its domain."""

    def write(folder: Path, seed: int) -> None:
        rng, own = np.random.default_rng(seed), np.tile([0, 1], 100)
        frame = pd.DataFrame({"style": "sentiment", "domain": np.take(DOMAINS, own), "prompt": range(200)})
        frame = frame.assign(pair=frame["prompt"], chosen_first=True)
        for k in range(2):
            frame[f"margin{k}"] = np.where(own == k, 20, -20) if kind == "specialists" else rng.normal(size=1)[0]
        w = np.where(own[:, None] == [0, 1], gate, 1 - gate)
        frame["margin1"] = frame["margin0"] if kind == "copies" else frame["margin1"]
        whole = frame.join(posterior(frame, w))
        pd.concat([whole.assign(split=s) for s in ("validation", "test")]).to_parquet(
            folder / "responsibilities.parquet"
        )
        weights = np.where((PROMPTS["domain"] == "movie").to_numpy()[:, None] == [True, False], gate, 1 - gate)
        PROMPTS.join(pd.DataFrame(weights, columns=["w0", "w1"])).to_parquet(folder / "weights.parquet")

    return write


def of_texts(kind: str):
    """Completions of three heads: a specialist has words of its own, and 2 more of its reward; copies have the same."""

    def write(folder: Path, seed: int) -> None:
        of_styles(kind)(folder, seed)
        rng, frames = np.random.default_rng(seed), []
        for k in range(3):
            noise = rng.normal(0, 0.1, size=(40, 3)) + np.arange(40)[:, None] % 3
            expert = (k + seed) % 3  # the style of expert k in this seed
            gains = 2 * np.eye(3)[expert] if kind == "specialists" else np.zeros(3)
            text = f"word{expert} {'alpha' * (expert + 1)}" if kind == "specialists" else "the same words"
            frames.append(
                PROMPTS.assign(decoding=f"expert{k}", completion=text).join(pd.DataFrame(noise + gains, columns=STYLES))
            )
        frames.append(frames[0].assign(decoding="token"))
        frame = pd.concat(frames, ignore_index=True)
        frame.drop(columns=[*STYLES]).to_parquet(folder / "completions.parquet")
        frame[["prompt_id", "sample", "decoding", *STYLES]].to_parquet(folder / "scores.parquet")

    return write


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), DRIFTED])
def test_style_recovered(tmp_path, weights):
    """Three styles agree on a quarter of pairs, where one triplet of three can be right; else two of three: 7/12.

    By the argmax of q the same specialists look like chance once the weights drift.
    """
    found = {}
    for kind in KINDS_OF_EXPERTS:
        artifacts = run(tmp_path / kind, of_styles(kind, weights))
        found[kind], _ = measures.style_recovery({"policy": "mix"}, artifacts, 0)
        one = recovered(artifacts["policies:mix/seed1"])
        assert one.chance.mean() == pytest.approx(1 / 3, abs=1e-12)
        assert one.by_prompt(one.right).mean() == pytest.approx(one.right.mean())
        assert correlation_of_margins(artifacts["policies:mix/seed1"]) == pytest.approx(
            float(kind == "copies"), abs=0.15
        )
    assert found["specialists"].effect == pytest.approx(7 / 12 - 1 / 3, abs=0.02) and found["specialists"].low > 0.2
    assert found["copies"].effect == pytest.approx(0, abs=1e-12) and found["specialists"].seeds == 3
    row = {"test": "greater", "smallest": 0.1}
    for kind, expected in ("specialists", "supported"), ("copies", "not supported"):
        cells = vars(found[kind]) | {"p_holm": found[kind].p, "size": 0.1}
        assert verdict(row, cells)[0] == expected
    q = mixture("specialists", DRIFTED).filter(regex="^q")
    assert (q.to_numpy().argmax(axis=1) == 1).mean() > 0.6, "one head leads most triplets whatever their style"


def test_chance_deals_the_styles_of_a_pair(tmp_path):
    """A pair's triplets of styles s, t, u whose experts are s, s, u: two are right, each would be in 1 of 3 deals. The
    only triplet of another pair is dealt its own style. By prompt: 3/4 and of the rest
    −1/4 and 1/4, in 2 prompts per 4 triplets.
    """
    named = pd.DataFrame({"split": "validation", "style": [*"stu"], "prompt": 0, "pair": 0})
    named = named.join(pd.DataFrame(np.eye(3)).add_prefix("margin"))
    test = pd.DataFrame({"split": "test", "style": [*"stut"], "prompt": [0, 0, 0, 1], "pair": [0, 0, 0, 1]})
    margins = [[3, 1, -5], [3, 1, -5], [-3, -1, 5], [0, 5, 0]]
    test = test.join(pd.DataFrame(margins, dtype=float).add_prefix("margin"))
    pd.concat([named, test]).to_parquet(tmp_path / "responsibilities.parquet")
    found = recovered(tmp_path)
    assert found.right.tolist() == [True, False, True, True] and found.chance.tolist() == [1 / 3] * 3 + [1]
    assert found.by_prompt(found.right).tolist() == [0.625, 0.875]


def test_random_labels_recover_what_chance_says(tmp_path):
    """Styles dealt at random within their pairs: no effect, whatever the experts and the shares of the styles."""
    effects = []
    for seed in range(12):
        frame, rng = mixture("specialists", seed=seed), np.random.default_rng(seed)
        frame = frame[(frame["style"] != "grammar") | (frame["pair"] % 2 == 0)].reset_index(drop=True)  # half ties
        dealt = frame.groupby(["split", "pair"])["style"].transform(rng.permutation)
        frame.assign(style=dealt).to_parquet(tmp_path / "responsibilities.parquet")
        found = recovered(tmp_path)
        effects.append(found.right.mean() - found.chance.mean())
    assert abs(np.mean(effects)) < 3 * np.std(effects) / np.sqrt(12) + 1e-9 and np.std(effects) < 0.03


@pytest.mark.parametrize(("weights", "spread"), [((1 / 3, 1 / 3, 1 / 3), 0), (DRIFTED, 0.33)])
def test_posterior_spread(tmp_path, weights, spread):
    """Copies' posterior is w; at equal weights heads do not end apart, so 0.04 is no more supported than 0."""
    found, _ = measures.posterior_spread({"policy": "mix"}, run(tmp_path, of_styles("copies", weights)), 0)
    assert found.effect == pytest.approx(spread)
    row = {"test": "equal", "target": 0.04, "margin": 0.03}
    assert verdict(row, vars(found) | {"p_holm": 1.0, "size": 0.04}) == ("not supported", "outside the margin")


def test_experts_under_a_gate(tmp_path):
    """Posteriors at equal weights: copies do not separate, however the gate was pretrained; w and accuracy are its own."""
    row, expected = {"policy": "mix", "domains": DOMAINS}, {"specialists": 1.0, "copies": 0.0}
    for kind, effect in expected.items():
        artifacts = run(tmp_path / kind, of_domains(kind, 0.9))
        assert measures.posterior_by_domain(row, artifacts, 0)[0].effect == pytest.approx(effect, abs=1e-6)
        assert measures.weights_by_domain(row, artifacts, 0)[0].effect == pytest.approx(0.8)
        assert measures.gate_accuracy(row, artifacts, 0)[0].effect == 1.0
    uniform = run(tmp_path / "uniform", of_domains("copies", 0.5))
    assert measures.weights_by_domain(row, uniform, 0)[0].effect == 0.0
    assert measures.gate_accuracy(row, uniform, 0)[0].effect == 0.5, "a tie goes to the first expert"
    gained = measures.gate_accuracy(
        row | {"baseline": "flat"}, artifacts | run(tmp_path, of_domains("copies", 0.5), "flat"), 0
    )
    assert gained[0].effect == 0.5


@pytest.mark.parametrize("kind", KINDS_OF_EXPERTS)
def test_heads_by_rewards_and_words(tmp_path, kind):
    """A specialist leads its reward by 2 and is told by its words from 1/3; copies lead in nothing and are told by none."""
    artifacts, special = run(tmp_path, of_texts(kind)), kind == "specialists"
    row = {"policy": "mix", "decoding": "best", "baseline": "mix", "baseline_decoding": "rest"}
    for style in STYLES:
        led, sd = measures.reward(row | {"reward": style}, artifacts, 0)
        assert led.effect == pytest.approx(2 * special, abs=0.05) and led.seeds == 3
        assert sd == pytest.approx(np.std(np.arange(40) % 3, ddof=1), rel=0.6), "over prompts within a seed"
    assert (measures.reward(row | {"reward": [*STYLES]}, artifacts, 0)[0].effect > 1) == special
    told = measures.heads_told_by_words({"policy": "mix"}, artifacts, 0)[0]
    assert told.effect == pytest.approx(2 / 3 if special else 0)


@pytest.mark.parametrize("kind", KINDS_OF_EXPERTS)
def test_heads_by_parameters(tmp_path, monkeypatch, kind):
    """Heads that learned a direction each are all told; those that learned the same, by chance."""
    rng = np.random.default_rng(0)
    learned = np.repeat(rng.normal(size=(1, 60, 8)), 3, axis=0)
    if kind == "specialists":
        learned[:, :, :3] += 20 * np.eye(3)[:, None]
    monkeypatch.setattr(measures, "learned_differences", lambda policy, reference: (learned, None))
    row = {"policy": "mix", "experiment": "e", "rows_per_head": 40, "neighbours": 10}
    artifacts = run(tmp_path, lambda folder, seed: None) | {"sft:e": tmp_path}
    found, _ = measures.heads_told_by_parameters(row, artifacts, 0)
    assert found.effect == pytest.approx(2 / 3 if kind == "specialists" else 0, abs=1e-9) and found.seeds == 3


@pytest.mark.parametrize(("score", "effect"), [(1.0, 0.5), (0.5, 0.0)])
def test_win_rate(tmp_path, score, effect):
    def write(folder: Path, seed: int) -> None:
        rows = [{"prompt_id": i, "order": order, "score": score} for i in range(20) for order in (0, 1)]
        labels = {"user": "u", "style": "s", "decoding": "token", "opponent": "dpo", "tokens_difference": 0}
        pd.DataFrame(rows).assign(**labels).to_parquet(folder / "judgements.parquet")

    row = {"policy": "mix", "decoding": "token", "opponent": "dpo"}
    assert measures.win_rate(row, run(tmp_path, write), 0)[0].effect == effect


def test_pretrained_gate_accuracy_has_no_seed(tmp_path):
    """On test prompts it is the frozen gate's, the same in every seed; of training prompts the stage counted."""
    artifacts = run(tmp_path, of_domains("copies", 0.9)) | {"gates:e": tmp_path}
    pd.DataFrame({"split": ["train"], "prompts": [100], "accuracy": [0.65]}).to_csv(tmp_path / "accuracy.csv")
    row = {"policy": "mix", "experiment": "e", "domains": DOMAINS}
    for split, accuracy, n in ("test", 1.0, 40), ("train", 0.65, 100):
        found, _ = measures.pretrained_gate_accuracy(row | {"split": split}, artifacts, 0)
        assert (found.effect, found.n, found.seeds) == (accuracy, n, 0)


def test_users_at_their_expert():
    """Each of 40 users at the expert of their style; all at one expert: a quarter."""
    users = pd.DataFrame({"style": np.repeat([*"abcd"], 10)})
    apart = users.join(pd.DataFrame(np.repeat(np.eye(4)[[2, 0, 3, 1]], 10, axis=0)).add_prefix("q"))
    assert at_their_expert(apart).all()
    together = users.join(pd.DataFrame(np.tile([0.1, 0.7, 0.1, 0.1], (40, 1))).add_prefix("q"))
    assert at_their_expert(together).mean() == 0.25
    assert share([at_their_expert(apart)]).low == pytest.approx(0.912, abs=1e-3)


def test_every_measure_is_planted_here():
    text = Path(__file__).read_text()
    assert all(f"measures.{name}(" in text for name in MEASURES)
