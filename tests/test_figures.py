"""The numbers that the figures draw, worked by hand on artifacts of a few rows, and their files."""

import json
import re
from itertools import combinations
from pathlib import Path

import matplotlib.style
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.colors import to_rgba
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE
from planted import whole
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from mixdpo.method.language import load_language_model
from mixdpo.method.policy import Policy
from mixdpo.paper.claims import SIGNS
from mixdpo.paper.figures import figures
from mixdpo.paper.figures import forest as forests
from mixdpo.paper.figures.confusion import SAME, confusion, ink
from mixdpo.paper.figures.forest import forest
from mixdpo.paper.figures.posteriors import head_map, posterior_curves, posteriors
from mixdpo.paper.figures.style import GREY, STYLE, WIDTH
from mixdpo.paper.figures.tasks import tasks
from mixdpo.paper.figures.users import user_map
from mixdpo.paper.figures.words import best_styles, document_frequencies, flow, log_odds_z, words, words_of
from mixdpo.paper.scores import learned_differences
from mixdpo.run.config import methods_of
from mixdpo.run.kinds import KINDS

PUBLISHED = Path(__file__).parent.parent / "mixdpo/paper/published"
REWARDS = ["sentiment", "informativeness", "grammar"]
TEXTS = [" A warm and lovely tale.", " Set in Rome, by Solomon.", " It is a story. It ends."]


def policy(folder: Path, heads: int, reference: Path, w: np.ndarray, step: int = 1) -> Path:
    """A policy whose every artifact is in one folder; expert k alone writes TEXTS[k], w (2 n, K) movies first.

    `step` −1 numbers the experts the other way round.
    """
    (folder / "model").mkdir(parents=True)
    rng, order, n = np.random.default_rng(0), list(range(heads))[::step], len(w) // 2
    curve = {"step": np.arange(1, 21)} | {f"w{k}": 1 / heads for k in range(heads)}
    labels = [*REWARDS, "movie", "book"]
    curve |= {f"q{k} {x}": 1 / heads + rng.normal(0, 0.01, 20) for k in order for x in labels}
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    q = {f"q{k}": np.tile([0.3, 0.32], 30) + 0.1 * (np.arange(60) // 20 == j) for j, k in enumerate(order)}
    triplets = pd.DataFrame({"style": np.repeat(REWARDS, 20), "domain": "movie"} | dict(sorted(q.items())))
    whole(triplets).to_parquet(folder / "responsibilities.parquet")
    weight = AutoModelForCausalLM.from_pretrained(reference / "model").get_output_embeddings().weight.detach()
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(weight.shape, generator=generator) for _ in range(heads)]
    save_file({f"heads.{k}": weight + noise[k] for k in range(heads)}, folder / "model" / "mixture.safetensors")
    record(folder, perturbation=0.1, seed=0)
    prompts = pd.DataFrame({"prompt_id": range(2 * n), "domain": np.repeat(["movie", "book"], n)})
    prompts.join(pd.DataFrame(w[:, order]).add_prefix("w")).to_parquet(folder / "weights.parquet")
    texts = [prompts.assign(decoding=f"expert{k}", completion=TEXTS[j] * 3) for j, k in enumerate(order)]
    texts.append(prompts.assign(decoding="token", completion=" Nobody counts this."))
    pd.concat(texts).assign(prompt="It").to_parquet(folder / "completions.parquet")
    return folder


def record(folder: Path, perturbation: float, seed: int) -> None:
    """What a policy's manifest says of its start."""
    spec = {"spec": {"experts": {"perturbation": perturbation}, "seed": seed}}
    (folder / "manifest.json").write_text(json.dumps(spec))


MOVIE_FIRST = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
FROZEN = np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]])


@pytest.fixture
def moe(tmp_path, model_folder):
    """Two seeds of the learned gate, the second with its experts the other way round, and one of the frozen one."""
    reference = model_folder.parent
    made = {
        "moe_case1/seed0": policy(tmp_path / "a", 2, reference, MOVIE_FIRST),
        "moe_case1/seed1": policy(tmp_path / "b", 2, reference, MOVIE_FIRST + np.array([0.02, -0.02]), step=-1),
        "moe_case1_frozen_gate/seed0": policy(tmp_path / "c", 2, reference, FROZEN),
    }
    return {f"{stage}:{name}": f for name, f in made.items() for stage in ("policies", "completions")}


def mix(folder: Path, heads: int, model_folder: Path) -> dict[str, Path]:
    """Two seeds of mix_case1 and its reference."""
    w = np.full((12, heads), 1 / heads)
    made = {f"mix_case1/seed{s}": policy(folder / str(s), heads, model_folder.parent, w, 1 - 2 * s) for s in (0, 1)}
    artifacts = {f"{stage}:{name}": f for name, f in made.items() for stage in ("policies", "completions")}
    return artifacts | {"sft:multi_reward": model_folder.parent, "completions:reference": folder}


def published(name: str, **changes) -> dict:
    return yaml.safe_load((PUBLISHED / f"{name}.yaml").read_text()) | changes


def test_posterior_curves(tmp_path):
    """Half of four steps is a window of two; seed 1's expert 1 is head 0.

    Head 0: seed 0 gives (0.5, 1, 0) from its steps 2 to 4, seed 1 (1, 1, 1): means (0.75, 1, 0.5).
    """
    artifacts = {}
    for seed, (q0, q1) in enumerate([([0, 1, None, 0], [9] * 4), ([9] * 4, [1] * 4)]):
        (tmp_path / str(seed)).mkdir()
        curve = pd.DataFrame({"step": [1, 2, 3, 4], "w0": 0.5, "w1": 0.5, "q0 joy": q0, "q1 joy": q1})
        curve.to_csv(tmp_path / str(seed) / "curve.csv", index=False)
        styles = {f"q{seed}": [0.9, 0.5], f"q{1 - seed}": [0.1, 0.5]}
        after = pd.DataFrame({"style": ["joy", "sorrow"], "domain": "d"} | styles)
        whole(after.sort_index(axis=1)).to_parquet(tmp_path / str(seed) / "responsibilities.parquet")
        artifacts[f"policies:m/seed{seed}"] = tmp_path / str(seed)
    points, window = posterior_curves({"rows": [{"policy": "m"}], "smoothing": 0.5}, artifacts, ["joy"])
    head = points[points["head"] == 0]
    assert window == 2 and head["x"].tolist() == [2, 3, 4]
    assert head["y"].tolist() == [0.75, 1.0, 0.5] and set(head["label"]) == {"joy"}
    assert head["sd"].tolist() == pytest.approx([np.sqrt(0.125), 0, np.sqrt(0.5)]) and set(head["seeds"]) == {2}
    assert points.loc[points["head"] == 1, "y"].tolist() == [9.0] * 3


def test_a_panel_of_posteriors_is_a_style(tmp_path, model_folder):
    """Lines are heads, whose weights differ, not styles, which may coincide; how much was learned is printed."""
    figure, numbers = posteriors(published("figure1", rows_per_head=20), mix(tmp_path, 3, model_folder))
    curves = numbers[numbers["x"].notna() & numbers["seeds"].notna()]
    heads = curves.groupby("panel")["series"].unique().map(list).to_dict()
    assert heads == {panel: ["Head 0", "Head 1", "Head 2"] for panel in "abc"}
    axes = figure.subfigs[0].axes
    assert [axis.get_title() for axis in axes] == ["(a) Sentiment", "(b) Informativeness", "(c) Grammar"]
    rms = numbers[numbers["series"].str.startswith("root mean square")].set_index("series")["y"]
    ratio = 100 * rms["root mean square, learned"] / rms["root mean square, injected"]
    assert f"RMS: {ratio:.2g} %" in figure.subfigs[1].axes[0].get_title()


def test_mixture_weights(moe):
    """Expert 0 on movies: 0.9 and 0.7 in seed 0, 0.02 more in seed 1: mean 0.81, SE of prompts 0.1, of seeds 0.01 (t 12.7)."""
    _, numbers = tasks(published("figure3"), moe)
    means = numbers[numbers["panel"] == "b"].set_index(["head", "x"])
    half = np.hypot(1.96 * 0.1, 12.706 * 0.01)
    movie, book = (means.loc[(0, domain), ["y", "se", "low", "high", "n"]].tolist() for domain in ("movie", "book"))
    assert movie == pytest.approx([0.81, np.hypot(0.1, 0.01), 0.81 - half, 0.81 + half, 2], abs=1e-4)
    assert book[:2] == pytest.approx([0.31, np.hypot(0.1, 0.01)])
    assert set(numbers["head"]) == {0}, "expert 1 has the rest"
    assert set(numbers.loc[numbers["panel"] == "a", "series"]) == {"movie", "book"}


def test_confusion(moe):
    """Frozen: one of two right in either domain; learned: all. By prompt (1, 0, 0, 1) right, (0, 1, 1, 0) gained."""
    one_seed = {name: folder for name, folder in moe.items() if not name.endswith("moe_case1/seed1")}
    _, numbers = confusion(published("figure4"), one_seed)
    assert numbers["prompts"].tolist()[:8] == [1, 1, 1, 1, 2, 0, 0, 2]
    assert numbers["share"].tolist() == [0.5] * 4 + [1, 0, 0, 1] + [0.5, -0.5, -0.5, 0.5]
    assert numbers["accuracy"].tolist() == [0.5] * 4 + [1.0] * 4 + [0.5] * 4
    assert numbers["se"].tolist() == pytest.approx([np.sqrt(1 / 12)] * 4 + [0.0] * 4 + [np.sqrt(1 / 12)] * 4)
    assert numbers.loc[1, ["x", "y"]].tolist() == ["book", "movie"]


def test_confusion_counts_every_seed(moe):
    """Expert k stands for domain k in every seed, so a gate the other way round is wrong: 0.5 of the seeds."""
    _, numbers = confusion(published("figure4"), moe)
    learned = numbers[numbers["series"] == "Learned gate"]
    assert learned["prompts"].tolist() == [2, 2, 2, 2] and set(learned["accuracy"]) == {0.5}


def test_gates_that_agree_in_every_cell_say_so_once(moe):
    same = moe | {"completions:moe_case1_frozen_gate/seed0": moe["completions:moe_case1/seed0"]}
    del same["completions:moe_case1/seed1"]
    figure, numbers = confusion(published("figure4"), same)
    assert [text.get_text() for text in figure.axes[2].texts if text.get_text()] == [SAME]
    assert numbers["share"].tolist()[8:] == [0.0] * 4


@pytest.mark.parametrize("grey", np.linspace(0, 1, 21))
def test_text_is_legible_on_every_grey(grey):
    linear = grey / 12.92 if grey <= 0.04045 else ((grey + 0.055) / 1.055) ** 2.4
    contrast = (linear + 0.05) / 0.05 if ink([grey] * 3) == "black" else 1.05 / (linear + 0.05)
    assert contrast >= 4.5


def test_words_of_leaves_out_what_may_be_cut():
    assert words_of("The aud", "ience don't like it. Rome’s fire was bri") == {"don't", "like", "Rome's", "fire", "was"}


def test_words_of_takes_no_fragment():
    """Beside a digit, an underscore, a soft hyphen or a lost character stands a part of a word; compounds are whole."""
    text = "1930ies w_ary mil\xaditary lit\ufffderal first-rate -ish 'fine' (dogs') end."
    assert words_of("", text) == {"first-rate", "fine", "dogs", "end"}


def test_document_frequencies_keep_names():
    """A completion counts once; `The` is mostly lower case, `Rome` a name that somebody wrote small once."""
    first = pd.DataFrame({"prompt": "", "completion": ["The sea, the sea.", "the Rome.", "Rome, the end."]})
    second = pd.DataFrame({"prompt": "", "completion": ["the rome."]})
    counts = document_frequencies([first, second])
    assert counts.T.to_dict("list") == {"Rome": [2, 1], "end": [1, 0], "sea": [1, 0], "the": [3, 1]}


def test_log_odds():
    """α = 2 for both words: δ = log 5/3 − log 3/5 with variance 1/5 + 1/3."""
    z = log_odds_z(pd.DataFrame({0: [3, 1], 1: [1, 3]}, index=["x", "y"]), prior=4)
    expected = 2 * np.log(5 / 3) / np.sqrt(8 / 15)
    assert z.to_numpy() == pytest.approx(np.array([[expected, -expected], [-expected, expected]]))


def test_a_word_of_one_head_tops_its_list(tmp_path, model_folder):
    figure, numbers = words(published("figure2", z=1), mix(tmp_path, 3, model_folder))
    top = numbers.groupby("series").first()
    assert top.loc["Head 1", "word"] in {"Set", "Rome", "Solomon"} and "Nobody" not in set(numbers["word"])
    assert set(numbers.loc[numbers["series"] == "Head 2", "word"]) == {"story", "ends"}
    assert top[["completions", "of", "other_completions", "other_of"]].to_numpy().tolist() == [[24, 24, 0, 48]] * 3
    assert figure.get_figwidth() == WIDTH
    assert top["responsible_for"].tolist() == REWARDS and top["q"].tolist() == pytest.approx([0.41] * 3)


def test_heads_without_words_of_their_own_say_so(tmp_path, model_folder):
    figure, numbers = words(published("figure2", z=99), mix(tmp_path, 2, model_folder))
    assert len(numbers) > 4
    titles = [axis.get_title() for axis in figure.axes]
    assert all(re.search(r"\n0 of \d+ words at \$z\$ > 99$", title) for title in titles)
    assert {patch.get_facecolor() for axis in figure.axes for patch in axis.patches} == {to_rgba(GREY)}


def test_rare_words_are_left_out(tmp_path, model_folder):
    """Each of 72 completions holds its own words only: those of one head are in 24, a third."""
    artifacts = mix(tmp_path, 3, model_folder)
    assert len(words(published("figure2", at_least=1 / 3), artifacts)[1])
    assert not len(words(published("figure2", at_least=0.34), artifacts)[1])


def test_words_do_not_touch():
    """Outlines lie within the width, apart by at least 2 points, in the order of z."""
    weights = pd.Series({"Lebowski": 9.0, "Solomon": 5.0, "ordinary": 4.0, "pity": 3.0, "joy": 2.5, "gay": 0.1})
    places, height = flow(weights, 110)
    boxes = []
    for path, x, y in places:
        ink = path.get_extents()
        boxes.append((x + ink.x0, y - ink.y1, x + ink.x1, y - ink.y0))
    assert all(left >= -1e-9 and right <= 110 and top >= 0 and bottom <= height for left, top, right, bottom in boxes)
    for one, two in combinations(boxes, 2):
        across = max(one[0], two[0]) - min(one[2], two[2])
        down = max(one[1], two[1]) - min(one[3], two[3])
        assert max(across, down) >= 2
    assert [y for *_, y in places] == sorted(y for *_, y in places)


def test_no_style_stands_out_of_noise(tmp_path):
    q = {"q0": [0.5, 0.3, 0.49, 0.31]}
    pd.DataFrame({"style": ["joy", "joy", "awe", "awe"], "split": "validation"} | q).to_parquet(
        tmp_path / "responsibilities.parquet"
    )
    table = {"rows": [{"policy": "m"}], "rewards": ["joy", "awe"]}
    assert best_styles(table, {"policies:m/seed0": tmp_path}, {"m/seed0": [0]}) == [None]


def test_head_map_takes_the_rows_that_differ_most(tmp_path, model_folder):
    """Mean norms over heads are 3 for token 7, 2 for token 3 and at most 1 elsewhere."""
    differences = np.full((2, 9, 4), 0.01, dtype=np.float32)
    differences[:, 7, 0], differences[0, 3, 1], differences[1, 8, 2] = 3, 4, 2
    places = head_map(differences, {"rows_per_head": 2, "perplexity": 30, "seed": 0})
    assert places["token"].tolist() == [3, 7, 3, 7] and places["head"].tolist() == [0, 0, 1, 1]
    assert np.isfinite(places[["x", "y"]]).all(axis=None)


def test_learned_differences(tmp_path, model_folder, runtime):
    """Heads as they start have learned nothing; what training adds is found again, whatever was injected."""
    policy = Policy.from_language_model(load_language_model(model_folder, runtime), shared_heads=2)
    reference = policy.heads[0].weight.detach().clone()
    policy.perturb(0.3, seed=5)
    start = torch.stack([head.weight.detach() for head in policy.heads])
    update = torch.zeros_like(start)
    update[1, 7] = 0.25
    for name, heads in ("start", start), ("trained", start + update):
        (tmp_path / name / "model").mkdir(parents=True)
        save_file({f"heads.{k}": heads[k].clone() for k in (0, 1)}, tmp_path / name / "model" / "mixture.safetensors")
        record(tmp_path / name, perturbation=0.3, seed=5)
    learned, injected = learned_differences(tmp_path / "start", model_folder.parent)
    assert not learned.any() and np.array_equal(injected, (start - reference).numpy())
    rms = float(reference.square().mean().sqrt())
    assert np.sqrt(np.mean(injected**2)) == pytest.approx(0.3 * rms, rel=0.02)
    learned, _ = learned_differences(tmp_path / "trained", model_folder.parent)
    assert learned == pytest.approx(update.numpy(), abs=1e-6)


CLAIMED = [
    {"claim": "gain", "reward": "joy", "test": "greater"},
    {"claim": "same", "reward": "joy", "test": "equal", "target": 0, "margin": 0.2},
    {"claim": "far", "reward": "joy", "test": "greater"},
    {"claim": "told", "measure": "gate_accuracy", "test": "equal", "target": 0.65, "margin": 0.05},
    {"claim": "later", "test": "none"},
]
JUDGED = pd.DataFrame(
    {
        "claim": ["gain", "same", "far", "told", "later"],
        "text": ["More joy", "As much joy", "Much joy", "The gate is right", "It is stable"],
        "where": "section 4",
        "effect": [0.1, -0.02, 3.0, 0.6, np.nan],
        "low": [0.05, -0.1, 2.0, 0.5, np.nan],
        "high": [0.15, 0.06, 4.0, 0.7, np.nan],
        "unit": [0.5, 0.5, 1.0, 1.0, np.nan],
        "published": [0.2, 0.0, np.nan, 0.65, np.nan],
        "published_sigma": [0.3, 0.0, np.nan, np.nan, np.nan],
        "verdict": ["supported", "undecided", "supported", "not supported", "not tested"],
    }
)


def drawn_forest(monkeypatch, sigma=(-0.6, 0.6)):
    monkeypatch.setattr(forests, "judged", lambda table, rows, artifacts: JUDGED)
    groups = [{"name": "Joy", "claims": {"same": "as much", "gain": "more"}}]
    return forest({"rows": CLAIMED, "groups": groups, "limits": {"sigma": sigma, "share": [-0.1, 0.7]}}, {})


def test_forest_draws_the_numbers_of_the_claims(monkeypatch):
    """In σ an effect is divided by the SD, 0.5, the published one by the paper's own; shares stay as they are."""
    figure, numbers = drawn_forest(monkeypatch)
    lines = numbers.set_index("claim")
    assert lines.index.tolist() == ["same", "gain", "far", "told", "later"], "groups first, nothing left out"
    sigma = ["effect_sigma", "low_sigma", "high_sigma", "published_sigma"]
    assert lines.loc["gain", sigma].tolist() == pytest.approx([0.2, 0.1, 0.3, 0.3])
    assert lines.loc["same", [*sigma, "margin"]].tolist() == pytest.approx([-0.04, -0.2, 0.12, 0.0, 0.4])
    assert lines.loc["told", ["effect_share", "low_share", "high_share", "published_share"]].tolist() == [
        0.6,
        0.5,
        0.7,
        0.65,
    ]
    assert lines.loc["told", sigma].isna().all() and lines.loc["later", "verdict"] == "not tested"
    assert lines["label"].tolist() == ["as much", "more", "Much joy", "The gate is right", "It is stable"]
    assert lines["group"].tolist() == ["Joy", "Joy", *["Further claims"] * 3]
    assert lines["panel"].tolist() == ["a", "a", "a", "b", ""]
    drawn = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert drawn == pytest.approx([0.2]), "the effect beyond the axis is an arrow"
    texts = [text.get_text() for axis in figure.axes for text in axis.texts] + [
        text.get_text() for text in figure.texts
    ]
    assert "+3.00" in texts and "Not tested (section 4): It is stable" in texts


@pytest.mark.parametrize(
    ("limits", "cut"),
    [
        ((-0.6, 0.6), []),
        ((-0.6, 0.25), [(0.25, "margin"), (0.25, "#0072B2")]),  # margin −0.4 to 0.4, interval 0.1 to 0.3
        ((-0.1, 0.6), [(-0.1, "margin"), (-0.1, "#404040")]),  # margin, and interval −0.2 to 0.12
    ],
)
def test_forest_shows_what_is_cut_off(monkeypatch, limits, cut):
    figure, _ = drawn_forest(monkeypatch, limits)
    arrows = [line for line in figure.axes[0].lines if line.get_marker() in (CARETLEFTBASE, CARETRIGHTBASE)]
    expected = [(place, forests.MARGIN if colour == "margin" else colour) for place, colour in cut]
    assert [(line.get_xdata()[0], line.get_color()) for line in arrows] == expected
    assert {line.get_marker() for line in arrows} <= {CARETRIGHTBASE if limits[1] < 0.6 else CARETLEFTBASE}


def test_verdicts_differ_without_colour():
    assert set(forests.VERDICTS) == set(SIGNS)
    markers = [marker for marker, _ in forests.VERDICTS.values()]
    assert len(set(markers)) == len(markers) and forests.PUBLISHED["marker"] not in markers


def test_forest_names_every_claim_and_fits_a_readme(monkeypatch):
    """At 900 pixels the type of 6.5 points has 11.6 of them; the claims of claims.yaml make at most 1,100 pixels."""
    table, claims = published("forest"), published("claims")["rows"]
    named = [claim for group in table["groups"] for claim in group["claims"]]
    assert sorted(named) == sorted(row["claim"] for row in claims)
    cells = pd.DataFrame(claims).reindex(columns=["claim", "text", "where", "test"])
    values = dict.fromkeys(("effect", "low", "high", "published", "published_sigma"), 0.1) | {"unit": 1.0}
    cells = cells.assign(**values, verdict=np.where(cells["test"] == "none", "not tested", "undecided"))
    monkeypatch.setattr(forests, "judged", lambda table, rows, artifacts: cells)
    with matplotlib.style.context(["default", STYLE]):
        figure, numbers = forest(table | {"rows": claims}, {})
        figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1
    assert 900 * figure.get_figheight() / figure.get_figwidth() <= 1100 and figure.get_figwidth() == WIDTH
    assert len(numbers) == len(claims) and not (numbers["group"] == "Further claims").any()
    sizes = [
        text.get_fontsize() for axis in figure.axes for text in axis.findobj(matplotlib.text.Text) if text.get_text()
    ]
    assert min(sizes) >= 6


def test_forest_is_the_same_bytes_twice(tmp_path, runtime, monkeypatch):
    """Its sources are the tables that the claims come from, beside it under their own names."""
    monkeypatch.setattr(forests, "judged", lambda table, rows, artifacts: JUDGED)
    claims, source = tmp_path / "claims.yaml", tmp_path / "forest.yaml"
    claims.write_text(yaml.safe_dump({"rows": CLAIMED}))
    source.write_text(yaml.safe_dump(published("forest", cells_of=[])))
    for out in (tmp_path / "first", tmp_path / "second"):
        out.mkdir()
        figures(out, {"table": "forest"}, runtime=runtime, resume=tmp_path, published=source, claims=claims)
    first, second = ({f.name: f.read_bytes() for f in (tmp_path / out).iterdir()} for out in ("first", "second"))
    assert first == second and set(first) == {f"forest.{suffix}" for suffix in ("png", "pdf", "csv")}


@pytest.mark.parametrize(
    ("name", "heads", "changes"),
    [
        ("figure1", 3, {"rows_per_head": 20}),
        ("figure2", 2, {"z": 1}),
        ("figure3", 2, {}),
        ("figure4", 2, {}),
    ],
)
def test_files_are_the_same_bytes_twice(tmp_path, runtime, model_folder, moe, name, heads, changes):
    artifacts, source = mix(tmp_path, heads, model_folder) | moe, tmp_path / "figure.yaml"
    source.write_text(yaml.safe_dump(published(name, **changes)))
    for out in ("first", "second"):
        (tmp_path / out).mkdir()
        figures(tmp_path / out, {"table": name}, runtime=runtime, resume=tmp_path, published=source, **artifacts)
    first, second = ({f.name: f.read_bytes() for f in (tmp_path / out).iterdir()} for out in ("first", "second"))
    assert set(first) == {f"{name}.{suffix}" for suffix in ("png", "pdf", "csv")} and first == second
    assert b"CreationDate" not in first[f"{name}.pdf"] and b"Matplotlib" not in first[f"{name}.png"]
    numbers = pd.read_csv(tmp_path / "first" / f"{name}.csv")
    assert {"panel", "series"} <= set(numbers) and len(numbers)


def test_users_are_drawn_by_the_styles_that_they_have(tmp_path):
    """No user prefers honesty or truthfulness here; the panel is as wide as the figure lets it be."""
    users = {"user": [0, 1, 2], "style": ["helpfulness", "helpfulness", "instruction_following"]}
    users |= {"margin0": [0.0, 1.0, 0.5], "margin1": [0.0, 1.0, 0.2]}
    pd.DataFrame(users).assign(split="validation").to_parquet(tmp_path / "responsibilities.parquet")
    figure, _ = user_map(published("poster_figure"), {"policies:user_moe_case1/seed0": tmp_path})
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["Helpfulness", "Instruction following"]
    assert axis.get_xlabel().endswith("% of variance)") and axis.get_ylabel().endswith("% of variance)")
    figure.draw_without_rendering()
    assert axis.get_tightbbox().x0 < 0.02 * figure.bbox.width


def test_published_figures_are_known():
    for name in ("figure1", "figure2", "figure3", "figure4"):
        table = published(name)
        assert KINDS[table["kind"]].figure and methods_of(table, table["experiment"])
        assert table["where"].startswith(f"Figure {name[-1]}")
    table = published("forest")
    assert KINDS[table["kind"]].figure and table["where"].startswith("ours")
