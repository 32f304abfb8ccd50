"""Tables of users, judges and ablations, and the poster's figure, worked by hand on fabricated artifacts."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import shown
from planted import whole

from mixdpo.paper.ablations import ablations_table, entropy, seconds_per_step
from mixdpo.paper.figures import figures
from mixdpo.paper.figures.users import principal_components, user_map, user_rewards
from mixdpo.paper.measures import win_rate
from mixdpo.paper.tables import tables
from mixdpo.paper.users import contradictions, length_bias_table, users_table, win_rates_table
from mixdpo.run.config import methods_of, published
from mixdpo.run.kinds import KINDS
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped

PUBLISHED = Path(__file__).parent.parent / "mixdpo/paper/published"
STYLES = {"helpfulness": "Helpfulness", "honesty": "Honesty"}


def judged(folder: Path, scores: dict[int, tuple[float, float]], differences: dict[int, int], **names) -> Path:
    """judgements.parquet of prompts with their scores in both orders and tokens more than the opponent."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"prompt_id": i, "user": f"user-{i:03}", "style": "honesty", "order": order, "score": score}
        | {"tokens_difference": differences[i]}
        for i, both in scores.items()
        for order, score in enumerate(both)
    ]
    frame = pd.DataFrame(rows).assign(**({"decoding": "token", "opponent": "user_dpo"} | names))
    frame.to_parquet(folder / "judgements.parquet")
    return folder


def written(folder: Path, ratios: list[float]) -> Path:
    """completions.parquet and weights.parquet: log π/π_ref of every prompt by token, 10 more by expert 1, the likelier."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({"prompt_id": range(len(ratios)), "reference_log_prob": -50.0})
    frame["user"] = [f"user-{i:03}" for i in frame["prompt_id"]]
    frame["log_prob"] = frame["reference_log_prob"] + ratios
    other = frame.assign(decoding="expert1", log_prob=frame["log_prob"] + 10)
    pd.concat([frame.assign(decoding="token"), other]).to_parquet(folder / "completions.parquet")
    frame[["prompt_id", "user"]].assign(w0=0.25, w1=0.75).to_parquet(folder / "weights.parquet")
    return folder


@pytest.fixture
def judgements(tmp_path):
    """Two seeds over four prompts; the last is never judged in seed 0, and once in seed 1.

    Pairs of seed 0 score 1, 1/2 (contradiction), 0; of seed 1 1, 1/2 (two ties), 1, 1.
    """
    lost, longer = float("nan"), {0: -9, 1: 0, 2: 9, 3: 3}
    first = {0: (1, 1), 1: (1, 0), 2: (0, 0), 3: (lost, lost)}
    second = {0: (1, 1), 1: (0.5, 0.5), 2: (1, 1), 3: (lost, 1)}
    return {
        "judgements:moe/seed0": judged(tmp_path / "0", first, longer),
        "judgements:moe/seed1": judged(tmp_path / "1", second, longer | {3: 5}),
        "completions:moe/seed0": written(tmp_path / "moe0", [1.0, 2.0, 3.0, 2.0]),
        "completions:moe/seed1": written(tmp_path / "moe1", [3.0, 2.0, 1.0, 2.0]),
        "completions:user_dpo/seed0": written(tmp_path / "dpo", [0.0, 1.0, 0.0, 1.0]),
    }


ROW = {"name": "Mixture", "policy": "moe", "decoding": "token"}


def test_win_rates_pool_orders_then_seeds(judgements):
    """Seeds' means are 1/2 and 7/8: mean 11/16, and their SE 3/16; what prompts have in common adds 0.073 to it.

    Pairs with both judgements 3 + 3, one contradicts.

    log π/π_ref is 2 for every prompt over the seeds; of DPO 0 or 1, so 1/2, SD √(1/3), SE √(1/12).
    """
    value = {"mean": 0.548, "se": 0.027, "where": "there"}
    form = {"experiment": "e", "opponents": {"user_dpo": "DPO"}, "rows": [ROW | {"published": {"user_dpo": [value]}}]}
    table = win_rates_table(form, judgements)
    cells, grid = table.numbers(), shown(table)
    line = cells.iloc[0]
    assert (line["mean"], line["se"], line["n"]) == (11 / 16, pytest.approx(np.hypot(3 / 16, 0.0733), abs=1e-4), 4)
    assert (line["contradictions"], line["failures"], line["judgements"]) == (pytest.approx(1 / 6), 3, 16)
    assert (line["published_mean"], line["published_where"], line["seeds"]) == (0.548, "there", 2)
    assert grid.loc[0, "Win rate, %, published"] == "54.8 ± 2.7"
    assert grid[[*table.headings]].iloc[0].to_dict() == {
        "Model": "Mixture",
        "Against": "DPO",
        "Win rate, %": "68.8 ± 20.1",
        "KL(π ‖ π_ref), nats": "2.0 ± 0.0",
        "KL of the opponent, nats": "0.5 ± 0.3",
        "Pairs": "4",
        "Won in one order, lost in the other, %": "16.7",
        "Judgements failed": "3 of 16",
    }


def test_a_decoding_and_an_opponent_are_judged_apart(tmp_path):
    """Wins by token against DPO, losses by the likeliest expert against it; nobody was set against the reference."""
    one = judged(tmp_path / "a", {0: (1, 1), 1: (1, 1)}, {0: 0, 1: 0})
    two = judged(tmp_path / "b", {0: (0, 0), 1: (0, 0)}, {0: 0, 1: 0}, decoding="sparse")
    both = pd.concat([pd.read_parquet(folder / "judgements.parquet") for folder in (one, two)])
    both.to_parquet(tmp_path / "judgements.parquet")
    rows = [ROW, ROW | {"name": "Sparse", "decoding": "sparse"}]
    form = {"experiment": "e", "opponents": {"user_dpo": "DPO", "reference": "Reference"}, "rows": rows}
    artifacts = {"judgements:moe/seed0": tmp_path, "completions:moe/seed0": written(tmp_path, [1.0, 3.0])}
    artifacts |= {
        f"completions:{name}": written(tmp_path / "c", [0.0, 0.0]) for name in ("user_dpo/seed0", "reference")
    }
    grid = shown(win_rates_table(form, artifacts))
    assert grid["KL(π ‖ π_ref), nats"].tolist() == ["2.0 ± 1.0"] * 2 + ["12.0 ± 1.0"] * 2
    assert grid["Win rate, %"].tolist() == ["100.0 ± 0.0", "–", "0.0 ± 0.0", "–"]
    assert grid["Win rate, %, published"].tolist() == [""] * 4 and grid["Pairs"].tolist() == ["2", "0", "2", "0"]
    assert grid["Won in one order, lost in the other, %"].tolist() == ["0.0", "–", "0.0", "–"]


def test_contradictions_need_both_verdicts(judgements):
    frames = [pd.read_parquet(judgements[f"judgements:moe/seed{seed}"] / "judgements.parquet") for seed in (0, 1)]
    assert [contradictions([frame]) for frame in frames] == [pytest.approx(1 / 3), 0.0]


def test_length_bias(judgements):
    """Edges belong to the middle: 3 tokens in seed 0, where the prompt has no judgement, leave the 5 of seed 1."""
    form = {"experiment": "e", "opponents": {"user_dpo": "DPO"}, "edges": [-3, 3], "rows": [ROW]}
    table = length_bias_table(form, judgements)
    cells, grid = table.numbers(), shown(table)
    assert cells[["length", "mean", "n"]].values.tolist() == [
        ["Shorter", 1.0, 1],
        ["About as long", 0.5, 1],
        ["Longer", 0.5, 2],
    ]
    assert grid.loc[0, "Shorter, %"] == "100.0 ± 0.0 (n = 1)" and grid.loc[0, "Longer, %"] == "50.0 ± 50.0 (n = 2)"
    table = length_bias_table(form | {"edges": [-99, 99]}, judgements)
    assert table.numbers()["n"].tolist() == [0, 4, 0] and shown(table).loc[0, "Longer, %"] == "– (n = 0)"


def test_win_rate_of_a_claim_is_less_a_half(judgements):
    row = {"policy": "moe", "decoding": "token", "opponent": "user_dpo"}
    found, unit = win_rate(row, judgements, 0)
    assert (found.effect, found.se, found.n, unit) == (3 / 16, pytest.approx(0.2013, abs=1e-4), 4, 1.0)


@pytest.fixture
def gated(tmp_path):
    """Two seeds of K = 2, the second with its experts the other way round; four users, two a style, one of them astray.

    Users 0 and 1 like helpfulness, 2 and 3 honesty; user 1 goes to honesty's expert. Of four triplets one is not
    recovered. The largest weights are 0.8, 0.7, 0.9, 0.6 and 0.6, those of user 3 twice.
    """
    artifacts = {"preferences:e": tmp_path / "preferences"}
    artifacts["preferences:e"].mkdir()
    counts = pd.DataFrame({"pairs": [100], "disagreeing": [20]})
    counts.to_csv(artifacts["preferences:e"] / "disagreement.csv", index=False)
    weight = np.array([0.8, 0.3, 0.1, 0.4, 0.4])
    asked = pd.DataFrame({"prompt_id": range(5), "domain": "instruction", "user": ["0", "1", "2", "3", "3"]})
    asked["style"] = [[*STYLES][user > "1"] for user in asked["user"]]
    style = ["helpfulness", "helpfulness", "honesty", "honesty"]
    triplets = pd.DataFrame({"style": style, "domain": "instruction", "user": ["0", "1", "2", "3"]})
    q, margin = np.array([0.9, 0.8, 0.7, 0.1]), np.array([[4.0, 0], [2, 0], [1, 0], [0, 3]])
    for seed, order in enumerate(([0, 1], [1, 0])):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name, frame, first in ("weights", asked, ("w", weight)), ("responsibilities", triplets, ("q", q)):
            both = dict(zip(order, (first[1], 1 - first[1])))
            frame = frame.assign(**{f"{first[0]}{k}": both[k] for k in (0, 1)})
            if name == "responsibilities":
                frame = whole(frame.assign(**{f"margin{k}": margin[:, order[k]] for k in (0, 1)}))
            frame.to_parquet(folder / f"{name}.parquet")
        artifacts |= {f"{stage}:moe/seed{seed}": folder for stage in ("completions", "policies")}
    return artifacts


def test_users_table(gated):
    """Three of four users are at their style's expert, in both seeds, whatever the experts' numbers.

    One user is at expert 0 and three are at expert 1: any two styles of two users each leave three at the best.
    """
    table = {"experiment": "e", "shuffles": 50, "seed": 0, "rows": [{"name": "MoE", "policy": "moe"}]}
    made = users_table(table, gated)
    cells, grid = made.numbers(), shown(made)
    own = cells[cells["row"] == "MoE"].set_index("column")
    assert own.loc["Users at their expert", ["mean", "se", "n"]].tolist() == [0.75, pytest.approx(np.sqrt(3 / 48)), 4]
    assert own.loc["Users at their expert", ["low", "high"]].tolist() == pytest.approx([0.75 - 1.96 / 4, 1.0], abs=1e-4)
    assert own.loc["Users at their expert", ["chance", "chance_95"]].tolist() == [0.75, 0.75]
    assert own.loc["Mean largest weight", "mean"] == pytest.approx((0.8 + 0.7 + 0.9 + 0.6 + 0.6) / 5)
    assert own.loc["Triplets recovered", "mean"] == 0.75
    assert own.loc["Honesty", ["mean", "expert"]].tolist() == [1.0, "Expert 1"]
    assert grid.loc[0, "Helpfulness"] == "Expert 0 (0.50)" and grid.loc[0, "Honesty"] == "Expert 1 (1.00)"
    assert grid.loc[0, "n (users, prompts, triplets)"] == "4, 5, 4"
    assert grid.iloc[1]["Pairs on which styles disagree"] == "0.200 ± 0.040 (n = 100)"
    assert cells.iloc[-1][["row", "mean", "n"]].tolist() == ["Preferences", 0.2, 100]


def test_a_users_expert_is_of_the_mean_weight(gated):
    """User 3 gives expert 0 0.4 first and then 0.9, 0.65 on average: one user of each style is astray.

    Two users at either expert: shuffled styles agree with that for 1 of 3 ways to pair them and else for half, 2/3.
    """
    for seed in (0, 1):
        path = gated[f"completions:moe/seed{seed}"] / "weights.parquet"
        frame = pd.read_parquet(path)
        frame.loc[4, [f"w{seed}", f"w{1 - seed}"]] = 0.9, 0.1
        frame.to_parquet(path)
    rows = [{"name": "MoE", "policy": "moe"}]
    table = {"experiment": "e", "shuffles": 200, "seed": 0, "rows": rows}
    made = users_table(table, gated)
    cells, grid = made.numbers(), shown(made)
    assert grid.loc[0, "Users at their expert"] == "0.500 [0.000, 1.000]"
    assert cells.loc[0, ["chance", "chance_95"]].tolist() == pytest.approx([2 / 3, 1.0], abs=0.05)


def test_entropy():
    assert entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).tolist() == pytest.approx([np.log(2), 0.0])


@pytest.fixture
def trained(tmp_path):
    """One seed of K = 2, joy 1, 2, 3 by token and 5 by expert 1, which weighs most; 30 s for 60 steps."""
    folder, prompts = tmp_path / "mix", pd.DataFrame({"prompt_id": [0, 1, 2], "domain": "movie"})
    folder.mkdir()
    frames = {"token": [1.0, 2, 3], "expert0": [0.0] * 3, "expert1": [5.0] * 3}
    texts = pd.concat([prompts.assign(sample=0, decoding=d, joy=joy) for d, joy in frames.items()])
    texts.drop(columns="joy").to_parquet(folder / "completions.parquet")
    texts[["prompt_id", "sample", "decoding", "joy"]].to_parquet(folder / "scores.parquet")
    prompts.assign(w0=0.25, w1=0.75).to_parquet(folder / "weights.parquet")
    q = pd.DataFrame({"style": ["s", "t"], "domain": "movie", "q0": [0.5, 0.5], "q1": [0.5, 0.5]})
    q = q.assign(margin0=1.0, margin1=2.0, prompt=0, pair=0)
    whole(q).to_parquet(folder / "responsibilities.parquet")
    pd.DataFrame({"step": range(60), "loss": 0.0}).to_csv(folder / "curve.csv", index=False)
    (tmp_path / "record.json").write_text(json.dumps({"seconds": 30.0}))
    artifacts = {f"{stage}:mix/seed0": folder for stage in ("completions", "rewards", "policies")}
    return artifacts | {"record:policies:e/mix/seed0": tmp_path / "record.json"}


def test_ablations_table(trained):
    """H(1/4) = 0.562 nats, 0.81 of log 2; margins are alike, so the largest tells one of two styles; 30 s / 60 steps."""
    rows = [{"name": "Mix", "policy": "mix"}, {"name": "Sparse", "policy": "mix", "decoding": "sparse"}]
    table = ablations_table({"experiment": "e", "columns": {"joy": "Joy"}, "rows": rows}, trained)
    cells, grid = table.numbers(), shown(table)[[*table.headings]]
    assert grid["Joy"].tolist() == ["2.000 ± 0.577", "5.000 ± 0.000"]
    assert grid.loc[0, "Entropy of w, nats (of log K)"] == "0.562 ± 0.000 (0.81)"
    assert grid.loc[0, "Entropy of q, nats (of log K)"] == "0.693 ± 0.000 (1.00)"
    assert grid.iloc[0, -3:].tolist() == ["0.500", "0.500", "3, 2"]
    assert cells.loc[cells["column"] == "joy", "mean"].tolist() == [2.0, 5.0]
    assert grid.drop(columns=["Model", "Joy"]).nunique().tolist() == [1] * 5


def test_no_record_is_a_dash(trained):
    del trained["record:policies:e/mix/seed0"]
    assert np.isnan(seconds_per_step(trained, "e", "mix"))
    table = {"experiment": "e", "columns": {"joy": "Joy"}, "rows": [{"name": "Mix", "policy": "mix"}]}
    assert shown(ablations_table(table, trained)).loc[0, "Seconds a step, with imports"] == "–"


def test_user_rewards_are_means_over_a_users_triplets():
    frame = pd.DataFrame({"user": ["b", "a", "b"], "style": ["x", "y", "x"], "domain": "d", "q0": 1.0})
    users = user_rewards(frame.assign(margin0=[1.0, 5.0, 3.0], margin1=[0.0, 1.0, 1.0]))
    assert users.values.tolist() == [["a", "y", 1, 5.0, 1.0], ["b", "x", 2, 2.0, 0.5]]


def test_principal_components():
    """Along (3, 4) the points lie at −10, 0, 10, across it at 1, −2, 1: variances 100 and 3."""
    along, across = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    points = np.outer([-10, 0, 10], along) + np.outer([1, -2, 1], across)
    places, explained = principal_components(points)
    assert abs(places) == pytest.approx(abs(np.array([[10, 1], [0, 2], [10, 1]])), abs=1e-9)
    assert explained == pytest.approx([100 / 103, 3 / 103])


def test_user_map_draws_every_user_of_the_first_seed(gated):
    """Margins (4, 0), (2, 0), (1, 0), (0, 3); a style has the same marker in the legend as in every panel."""
    table = {"rows": [{"name": "MoE", "policy": "moe"}] * 2}
    figure, numbers = user_map(table, gated)
    one = numbers[numbers["panel"] == "a"]
    assert one["user"].tolist() == ["0", "1", "2", "3"] and one["series"].tolist() == [t for t in STYLES for _ in "ab"]
    assert one[["margin0", "margin1"]].values.tolist() == [[4, 0], [2, 0], [1, 0], [0, 3]]
    assert np.linalg.norm(one[["x", "y"]].diff().iloc[1]) == pytest.approx(2.0)
    assert one["x"].var() > one["y"].var()
    drawn = [group.get_offsets().data.tolist() for group in figure.axes[1].collections]
    assert drawn == [one[["x", "y"]].values[:2].tolist(), one[["x", "y"]].values[2:].tolist()]
    assert [axis.get_title() for axis in figure.axes] == ["(a) MoE", "(b) MoE"]


def test_figure_is_the_same_bytes_twice(tmp_path, runtime, gated):
    table = yaml.safe_load((PUBLISHED / "poster_figure.yaml").read_text())
    rows = [row | {"policy": "moe"} for row in table["rows"]]
    source = tmp_path / "figure.yaml"
    source.write_text(yaml.safe_dump(table | {"rows": rows}))
    written = []
    for out in (tmp_path / "first", tmp_path / "second"):
        out.mkdir()
        figures(out, {"table": "poster_figure"}, runtime=runtime, resume=out, published=source, **gated)
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert set(written[0]) == {f"poster_figure.{suffix}" for suffix in ("png", "pdf", "csv")}
    assert written[0] == written[1]


def test_tables_are_printed_from_their_yaml(tmp_path, runtime, judgements):
    """Published percentages stand beside ours, at Case 1 alone; length_bias takes the rows of the other table."""
    methods = ("user_moe_case1",)
    artifacts = {
        f"{stage}:multi_user/{method}/seed0": judgements[f"{stage}:moe/seed0"]
        for method in methods
        for stage in ("judgements", "completions")
    }
    for name in "user_dpo/seed0", "reference":
        artifacts[f"completions:multi_user/{name}"] = judgements["completions:user_dpo/seed0"]
    source = PUBLISHED / "poster_table3.yaml"
    how = {"runtime": runtime, "resume": tmp_path} | artifacts
    tables(tmp_path, {"table": "poster_table3"}, published=source, **how)
    text = (tmp_path / "poster_table3.md").read_text()
    assert [text.count(value) for value in ("54.8 ± 2.7", "56.9 ± 2.8", "55.1 ± 3.2", "56.5 ± 2.8")] == [1] * 4
    assert text.count(" 50.0 ± 28.9 |") == 1
    assert r"Win rate, \%" in (tmp_path / "poster_table3.tex").read_text()
    tables(tmp_path, {"table": "length_bias"}, published=PUBLISHED / "length_bias.yaml", poster_table3=source, **how)
    numbers = json.loads((tmp_path / "length_bias.json").read_text())["numbers"]
    assert len(numbers) == 2 and numbers["Case 1 (Mixture)"]["DPO"]["Longer"] == {"mean": 0.0, "n": 1}


def test_published_tables_are_known():
    config = completed(shipped(PUBLISHED.parents[2]))
    tables = published(PUBLISHED, config)
    users = ["user_moe_case1", "user_moe_case2", "user_moe_adapters", "user_moe_specialists"]
    for name, methods in {"poster_table3": 1, "length_bias": 1, "users": 1, "users_win_rates": 4}.items():
        assert not KINDS[tables[name]["kind"]].figure
        assert [m for m in methods_of(tables[name], "multi_user") if m.startswith("user_moe")] == users[:methods]
    assert KINDS[tables["poster_figure"]["kind"]].figure
    assert tables["ablations"]["target"] == "ablations" and tables["ablations"]["kind"] in KINDS
    rows = [(row["policy"], row.get("decoding", "token")) for row in tables["ablations"]["rows"]]
    assert len(rows) == len(set(rows))
    assert {name for name in config["policies"]["methods"] if name.startswith("ablation_")} < {name for name, _ in rows}
