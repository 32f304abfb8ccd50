"""The numbers that the figures draw, worked by hand on artifacts of a few rows, and their files."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.colors import to_rgba
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from mixdpo.paper import figures as drawing
from mixdpo.paper.figures import (
    best_rewards,
    confusion,
    document_frequencies,
    figures,
    head_differences,
    head_map,
    log_odds_z,
    posterior_curves,
    tasks,
    words,
    words_of,
)
from mixdpo.run.config import methods_of

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
    triplets.to_parquet(folder / "responsibilities.parquet")
    weight = AutoModelForCausalLM.from_pretrained(reference / "model").get_output_embeddings().weight.detach()
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(weight.shape, generator=generator) for _ in range(heads)]
    save_file({f"heads.{k}": weight + noise[k] for k in range(heads)}, folder / "model" / "mixture.safetensors")
    prompts = pd.DataFrame({"prompt_id": range(2 * n), "domain": np.repeat(["movie", "book"], n)})
    prompts.join(pd.DataFrame(w[:, order]).add_prefix("w")).to_parquet(folder / "weights.parquet")
    texts = [prompts.assign(decoding=f"expert{k}", completion=TEXTS[j] * 3) for j, k in enumerate(order)]
    texts.append(prompts.assign(decoding="token", completion=" Nobody counts this."))
    pd.concat(texts).assign(prompt="It").to_parquet(folder / "completions.parquet")
    return folder


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
        after.sort_index(axis=1).to_parquet(tmp_path / str(seed) / "responsibilities.parquet")
        artifacts[f"policies:m/seed{seed}"] = tmp_path / str(seed)
    points, window = posterior_curves({"rows": [{"policy": "m"}], "smoothing": 0.5}, artifacts, ["joy"])
    head = points[points["head"] == 0]
    assert window == 2 and head["x"].tolist() == [2, 3, 4] and set(head["panel"]) == {"a"}
    assert head["y"].tolist() == [0.75, 1.0, 0.5] and set(head["series"]) == {"joy"}
    assert head["sd"].tolist() == pytest.approx([np.sqrt(0.125), 0, np.sqrt(0.5)]) and set(head["seeds"]) == {2}
    assert points.loc[points["head"] == 1, "y"].tolist() == [9.0] * 3


def test_mixture_weight_bars(moe):
    """Head 0 on movies: 0.9 and 0.7 in seed 0, 0.02 more in seed 1: mean 0.81, SE 0.1 over two prompts."""
    _, numbers = tasks(published("figure3"), moe)
    bars = numbers[numbers["panel"] == "c"].set_index(["series", "x"])
    assert bars.loc[("Head 0", "movie"), ["y", "se", "n"]].tolist() == pytest.approx([0.81, 0.1, 2])
    assert bars.loc[("Head 1", "book"), ["y", "se", "n"]].tolist() == pytest.approx([0.69, 0.1, 2])
    assert set(numbers.loc[numbers["panel"] == "a", "series"]) == {"movie", "book"}


def test_confusion(moe):
    """Frozen: one of two right in either domain; learned: all. Right per prompt (1, 0, 0, 1), difference (0, 1, 1, 0)."""
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


def test_words_of_leaves_out_what_may_be_cut():
    assert words_of("The aud", "ience don't like it. Rome’s fire was bri") == {"don't", "like", "Rome's", "fire", "was"}


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
    _, numbers = words(published("figure2", z=1), mix(tmp_path, 3, model_folder))
    top = numbers.groupby("series").first()
    assert top.loc["Head 1", "word"] in {"Set", "Rome", "Solomon"} and "Nobody" not in set(numbers["word"])
    assert set(numbers.loc[numbers["series"] == "Head 2", "word"]) == {"story", "ends"}
    assert top[["completions", "of", "other_completions", "other_of"]].to_numpy().tolist() == [[24, 24, 0, 48]] * 3
    assert top["responsible_for"].tolist() == REWARDS and top["q"].tolist() == pytest.approx([0.41] * 3)


def test_heads_without_words_of_their_own_say_so(tmp_path, model_folder):
    figure, numbers = words(published("figure2", z=99), mix(tmp_path, 2, model_folder))
    assert len(numbers) > 4
    titles = [axis.get_title() for axis in figure.axes]
    assert all(re.search(r"\n0 of \d+ words at \$z\$ > 99$", title) for title in titles)
    assert {patch.get_facecolor() for axis in figure.axes for patch in axis.patches} == {to_rgba(drawing.GREY)}


def test_no_reward_stands_out_of_noise(tmp_path):
    q = {"q0": [0.5, 0.3, 0.49, 0.31]}
    pd.DataFrame({"style": ["joy", "joy", "awe", "awe"]} | q).to_parquet(tmp_path / "responsibilities.parquet")
    table = {"rows": [{"policy": "m"}], "rewards": ["joy", "awe"]}
    assert best_rewards(table, {"policies:m/seed0": tmp_path}, {"m/seed0": [0]}) == [None]


def test_head_map_takes_the_rows_that_differ_most(tmp_path, model_folder):
    """Mean norms over heads are 3 for token 7, 2 for token 3 and at most 1 elsewhere."""
    differences = np.full((2, 9, 4), 0.01, dtype=np.float32)
    differences[:, 7, 0], differences[0, 3, 1], differences[1, 8, 2] = 3, 4, 2
    places = head_map(differences, {"rows_per_head": 2, "perplexity": 30, "seed": 0})
    assert places["token"].tolist() == [3, 7, 3, 7] and places["head"].tolist() == [0, 0, 1, 1]
    assert np.isfinite(places[["x", "y"]]).all(axis=None)
    weight = AutoModelForCausalLM.from_pretrained(model_folder).get_output_embeddings().weight.detach()
    (tmp_path / "model").mkdir()
    save_file({f"heads.{k}": weight + k for k in range(2)}, tmp_path / "model" / "mixture.safetensors")
    found = head_differences(tmp_path, model_folder.parent)
    assert found == pytest.approx(np.broadcast_to([[[0.0]], [[1.0]]], found.shape), abs=1e-6)


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


def test_published_figures_are_known():
    for name in ("figure1", "figure2", "figure3", "figure4"):
        table = published(name)
        assert (
            table["kind"] in drawing.KINDS
            and methods_of(table, table["experiment"])
            and table["where"].startswith(f"Figure {name[-1]}")
        )
