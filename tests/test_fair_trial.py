"""Tables and figures of the fair trial, of rewards at equal KL and of users, on planted policies."""

from pathlib import Path

import numpy as np
import pandas as pd
import planted_runs as planted
import pytest
import yaml
from conftest import shown

from mixdpo.data.posterior import log_preference, posterior
from mixdpo.data.statistics import by_cluster, mean_and_se
from mixdpo.paper.fair_trial import fair_trial_table, gain
from mixdpo.paper.figures import figures
from mixdpo.paper.figures.annotators import annotators
from mixdpo.paper.figures.frontier import frontier_map
from mixdpo.paper.figures.new_users import new_users_curve
from mixdpo.paper.frontier import Frontier, at_equal_kl, frontier_table, scales_of
from mixdpo.paper.held_out import held_out_table, right
from mixdpo.paper.new_users import by_known, new_users_table
from mixdpo.paper.page_texts import entries
from mixdpo.paper.scores import samples, triplets_of
from mixdpo.paper.tables import tables
from mixdpo.run.kinds import KINDS

PUBLISHED = Path(__file__).parent.parent / "mixdpo/paper/published"
TASTES = ["helpfulness", "honesty", "truthfulness", "instruction_following"]


def form(name: str, **changes) -> dict:
    return yaml.safe_load((PUBLISHED / f"{name}.yaml").read_text()) | changes


def lines(table) -> pd.DataFrame:
    """The numbers of a table by row and column."""
    return table.numbers().set_index(["row", "column"])


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return planted.trial(tmp_path_factory.mktemp("trial"), seeds=3)


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    return planted.users(tmp_path_factory.mktemp("users"), TASTES)


def test_posterior_by_hand():
    """Of one comparison σ = (3/4, 1/2), hence (3/5, 2/5); of two (9/16, 1/4), hence (9/13, 4/13); of none the prior."""
    margins = np.array([[np.log(3), 0.0]] * 2)
    prior = np.array([0.5, 0.5])
    assert posterior(prior, margins[:0]).tolist() == pytest.approx([0.5, 0.5])
    assert posterior(prior, margins[:1]).tolist() == pytest.approx([3 / 5, 2 / 5])
    assert posterior(prior, margins).tolist() == pytest.approx([9 / 13, 4 / 13])
    assert posterior(np.array([0.0, 1.0]), margins).tolist() == [0.0, 1.0]
    several = posterior(prior, np.stack([margins, margins[:, ::-1]]))
    assert several[0].tolist() == several[1, ::-1].tolist()
    assert posterior(prior, np.full((1, 2), -2000.0)).tolist() == pytest.approx([0.5, 0.5]), "in log space"
    assert np.exp(log_preference(np.array([0.25, 0.75]), margins[0])) == pytest.approx(0.25 * 0.75 + 0.75 * 0.5)


def test_by_cluster_has_the_mean_of_all_values():
    """Clusters of one and of three: the mean of all four, and no spread where all are alike."""
    assert by_cluster([1, 0, 0, 1], [7, 2, 2, 2]).tolist() == [0.25, 0.75]  # of 2 and of 7: −1/2 · 2/4, 1/2 · 2/4
    assert by_cluster([1, 0, 0, 1], [7, 2, 2, 2]).mean() == 0.5
    assert by_cluster([1, 1, 1, 1], [7, 2, 2, 2], [2, 3, 7]).tolist() == [1.0] * 3
    assert by_cluster([1, 0], [0, 1], [0, 1, 2]).tolist() == [1.25, -0.25, 0.5]


def test_scores_of_scaled_experts_follow_the_order_of_heads(trial):
    """KL 10 · 1.8 · λ², by the numbers that `head_order` gives the experts."""
    for decoding, kl in ("expert1", 18.0), ("expert1@0.5", 4.5), ("expert1@0.25", 1.125):
        frame = samples(trial, "mix_annotators_25", decoding)
        assert set(frame["log_prob"] - frame["reference_log_prob"]) == {kl} and len(frame) == 240
        level = frame["informativeness"].mean() - frame["sentiment"].mean()
        assert level == pytest.approx(0.8 * {18.0: 1, 4.5: 0.5, 1.125: 0.25}[kl], abs=0.1)
    assert scales_of(trial, "mix_annotators_25") == [0.25, 0.5] and scales_of(trial, "reference") == []


def test_a_planted_mixture_reaches_the_ceiling_and_copies_the_floor(trial, tmp_path):
    made = fair_trial_table(form("fair_trial"), trial)
    found, grid = lines(made), shown(made).set_index("Model")
    taught, best = "Experts taught their style, the ceiling", "An expert per annotator, m = 25"
    assert found.loc[(taught, "recovered"), "of_ceiling"] == 1.0
    assert found.loc[(best, "recovered"), "mean"] > 0.55 > found.loc[(best, "recovered"), "chance"] + 0.2
    assert grid.loc["Baseline DPO", "Gain in log P [95 %]"] == "–"
    gains = [found.loc[(name, "gain"), "mean"] for name in grid.index[1:]]
    assert gains == sorted(gains) and found.loc[(best, "gain"), "low"] > 0
    assert found.loc[(best, "annotators"), "mean"] == pytest.approx(0.8), "6 of 30 were given to another style's expert"
    assert (taught, "annotators") not in found.index and grid.loc[taught, "Annotators recovered [95 %]"] == "–"
    copies = planted.policy(tmp_path / "copies", 0, [0.0] * 3, noise=0.0)
    copied = trial | {
        f"{stage}:mix_case1/seed{s}": copies for s in range(3) for stage in ("policies", "completions", "rewards")
    }
    at_floor = lines(fair_trial_table(form("fair_trial"), copied)).loc["Case 1, an expert per triplet"]
    assert at_floor.loc["recovered", "mean"] == pytest.approx(at_floor.loc["recovered", "chance"], abs=0.03)
    assert abs(at_floor.loc["recovered", "of_ceiling"]) < 0.1
    assert at_floor.loc["correlation", "mean"] == pytest.approx(1.0)


def test_gains_are_of_the_same_triplets(trial):
    own, base = (triplets_of(trial[f"policies:{name}/seed1"]) for name in ("mix_case1", "dpo"))
    expected = own["log_p"] - base["log_p"]
    assert gain(own, base.sample(frac=1, random_state=0)) == pytest.approx(expected.to_numpy())
    table = fair_trial_table(form("fair_trial"), trial)
    line = lines(table).loc[("Case 1, an expert per triplet", "gain")]
    means = [
        (
            triplets_of(trial[f"policies:mix_case1/seed{s}"])["log_p"]
            - triplets_of(trial[f"policies:dpo/seed{s}"])["log_p"]
        )
        for s in range(3)
    ]
    assert line["mean"] == pytest.approx(np.mean(means)) and line["seeds"] == 3 and line["prompts"] == 60


def test_best_experts_are_those_of_the_seed(trial):
    """The expert of a reward gains 0.8 more than DPO, which gains 1, in units of the SD of DPO's scores."""
    found = lines(fair_trial_table(form("fair_trial"), trial)).loc["An expert per annotator, m = 25"]
    sd = samples(trial, "dpo").groupby("seed")[planted.STYLES].var().mean() ** 0.5
    for style in planted.STYLES:
        assert found.loc[style, "mean"] == pytest.approx(0.8 / sd[style], abs=0.08)
        assert found.loc[f"kl {style}", "mean"] == pytest.approx(18.0)


def test_rewards_at_equal_kl_by_hand():
    """Own KL 0, 4, 16 with rewards 0, 1, 2; the baseline's 0, 9 with 0, 2: at 9, 1 + 5/12 less 2.

    A second seed's own KL ends at 6, below the baseline's: there the baseline has 4/3.
    """
    own = Frontier(
        np.array([0, 0.5, 1]), np.array([0.0, 1, 2]).reshape(3, 1, 1, 1, 1).repeat(2, 1), np.zeros((3, 2, 1, 1))
    )
    own.kl[:, 0, 0, 0], own.kl[:, 1, 0, 0] = [0, 4, 16], [0, 2, 6]
    base = Frontier(np.array([0, 1]), np.array([0.0, 2]).reshape(2, 1, 1, 1, 1).repeat(2, 1), np.zeros((2, 2, 1, 1)))
    base.kl[1] = 9.0
    gains, kl = at_equal_kl(own, base)
    assert kl.ravel().tolist() == [9.0, 6.0]
    assert gains.ravel().tolist() == pytest.approx([1 + 5 / 12 - 2, 2 - 4 / 3])


def test_frontier_table(trial):
    """At KL 10 the expert of a reward has 0.9 + 0.9 · 5.5/13.5 above the reference, DPO 1, and other experts less."""
    made = frontier_table(form("frontier"), trial)
    found, grid = lines(made), shown(made).set_index("Model")
    expert, best = (f"An expert per annotator, m = 25, {name}" for name in ("expert 0", "best expert of each reward"))
    sd = np.sqrt(samples(trial, "dpo").groupby("seed")["sentiment"].var().mean())
    line = found.loc[(expert, "sentiment at equal KL")]
    assert line["mean"] == pytest.approx((0.9 + 0.9 * 5.5 / 13.5 - 1) / sd, abs=0.08) and line["low"] > 0
    assert found.loc[(expert, "equal kl"), "mean"] == pytest.approx(10.0)
    assert found.loc[(expert, "grammar at equal KL"), "high"] < 0
    assert all(found.loc[(best, f"{style} at equal KL"), "low"] > 0 for style in planted.STYLES)
    assert grid.loc["Baseline DPO", "KL(π ‖ π_ref), nats"] == "10.0 ± 0.0"
    assert grid.loc["Reference (SFT)", "KL(π ‖ π_ref), nats"] == "0.0 ± 0.0"
    assert grid.loc["Reference (SFT)", "Sentiment − DPO at equal KL [95 %], σ"] == "–"


def test_the_page_quotes_no_scaled_expert():
    lines = pd.DataFrame({"decoding": ["expert1", "expert1@0.5", "token"], "completion": ["a", "b", "c"]})
    assert [entry["text"] for entry in entries("mix", lines, [], [0, 1], [0.5, 0.5], {})] == ["a", "c"]


def test_held_out_table(users):
    """Specialists are always right, DPO for half, experts nine times in ten; who is unseen has the prior."""
    made = held_out_table(form("held_out"), users)
    found = made.numbers().set_index(["row", "users", "column"])["mean"]
    assert found["Specialists, told the style"].tolist() == [1.0] * 10
    assert found[("DPO", "seen", "mean")] == found[("DPO", "unseen", "mean")] == 0.5
    assert (
        found[("DPO, told the user", "seen", "mean")] == 1.0 and found[("DPO, told the user", "unseen", "mean")] == 0.5
    )
    for name in "Mix-DPO, an expert per user", "MoE-DPO, a gate that sees the user":
        assert 0.85 < found[(name, "seen", "mean")] < 0.97 and found[(name, "unseen", "mean")] < 0.4
    grid = shown(made)
    assert list(made.headings)[:3] == ["Model", "Users", "Helpfulness"]
    assert grid.loc[0, "n (seeds, prompts, comparisons)"] == "2, 40, 160"


def test_a_comparison_at_one_half_is_half_right():
    assert right(np.ones((3, 1)), np.array([[1.0], [0.0], [-1.0]])).tolist() == [1.0, 0.5, 0.0]


def test_two_tastes_and_one_seed(tmp_path):
    """Styles are those of the preferences."""
    two = planted.users(tmp_path, ["helpfulness", "truthfulness"], seeds=1)
    made = held_out_table(form("held_out"), two)
    assert [*made.headings][2:5] == ["Helpfulness", "Truthfulness", "Mean"]
    assert new_users_table(form("new_users"), two).numbers()["mean"].notna().any()


def test_new_users_become_known(users):
    """With comparisons a new user of four styles is known as well as a seen one; the experts then win."""
    found = new_users_table(form("new_users"), users).numbers().set_index(["row", "column", "users"])["mean"]
    mix = found["Mix-DPO, an expert per user"]
    for column in "unseen prompts", "seen prompts", "win rate":
        values = [mix[column][f"unseen, m = {m}"] for m in (0, 1, 2, 5, 10)]
        assert values == sorted(values) and values[0] < 0.3 and values[-1] > 0.85
        assert abs(values[-1] - mix[column]["seen"]) < 0.04
    assert mix["win rate"]["unseen, m = 0"] == pytest.approx(0.25), "one expert of four is that of the style"
    assert found["DPO"]["unseen prompts"].tolist() == [0.5] * 6 and found["DPO"]["win rate"].isna().all()
    assert found["DPO"]["less seen"].tolist() == [0.0] * 5


def test_draws_are_the_same_for_every_seed_and_leave_out_what_is_known(users, tmp_path):
    """With all twelve comparisons known none is left to be right about; users with too few are left out."""
    entry = {"policy": "user_mix"}
    all_known = by_known(form("new_users", comparisons=[0, 12]), users, entry)
    assert np.isnan(all_known["unseen, m = 12"]["seen prompts"]).all() and all_known["unseen, m = 12"]["users"] == 8
    again = by_known(form("new_users", comparisons=[0, 12]), users, entry)
    assert np.array_equal(all_known["unseen, m = 12"]["unseen prompts"], again["unseen, m = 12"]["unseen prompts"])
    too_many = by_known(form("new_users", comparisons=[0, 13]), users, entry)
    assert too_many["unseen, m = 0"]["users"] == 0 and np.isnan(too_many["unseen, m = 0"]["unseen prompts"]).all()
    assert too_many["seen"]["users"] == 8


def test_figure_of_annotators(trial):
    """What is drawn is what the table says; chance, taught experts and DPO are rules."""
    figure, numbers = annotators(form("annotators"), trial)
    found = lines(fair_trial_table(form("fair_trial"), trial))
    drawn = numbers.set_index(["panel", "series", "x"])["y"]
    assert drawn[("b", "Mix-DPO", 25)] == found.loc[("An expert per annotator, m = 25", "gain"), "mean"]
    assert drawn[("a", "Annotators", 2)] == found.loc[("An expert per annotator, m = 2", "annotators"), "mean"]
    assert ("a", "Annotators", 1) not in drawn.index, "a triplet is no annotator"
    assert numbers[numbers["x"].isna()].groupby("panel")["series"].apply(list).to_dict() == {
        "a": ["taught", "chance"],
        "b": ["taught", "DPO"],
        "c": ["DPO"],
    }
    assert figure.axes[0].get_xscale() == "log" and [t.get_text() for t in figure.axes[2].get_xticklabels()] == [
        "1",
        "2",
        "5",
        "25",
    ]


def test_figure_of_the_frontier(trial):
    _, numbers = frontier_map(form("frontier_figure"), trial)
    points = numbers[(numbers["panel"] == "b") & (numbers["series"] == "Expert 1")]
    assert points["x"].tolist() == pytest.approx([0, 1.125, 4.5, 18]) and points["y"].is_monotonic_increasing
    gains = numbers[numbers["panel"] == "e"].set_index("series")
    assert gains.loc["Expert 1", "low"] > 0 > gains.loc["Expert 0", "high"]


def test_figure_of_new_users(users):
    figure, numbers = new_users_curve(form("new_users_figure"), users)
    assert numbers.groupby("panel")["series"].nunique().to_dict() == {"a": 3, "b": 3, "c": 2}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "DPO" and labels[-1] == "users seen in training"


@pytest.mark.parametrize("name", ["fair_trial", "frontier", "annotators", "frontier_figure"])
def test_files_of_one_seed(tmp_path, runtime, name):
    """A run of one seed has no interval over seeds, and prints."""
    artifacts = planted.trial(tmp_path / "run", seeds=1, scales=())
    artifacts = {key.replace(":", ":multi_reward/"): path for key, path in artifacts.items()}
    write(tmp_path, runtime, name, artifacts)


@pytest.mark.parametrize("name", ["held_out", "new_users", "new_users_figure"])
def test_files_of_users(tmp_path, runtime, users, name):
    write(tmp_path, runtime, name, {key.replace(":", ":multi_user/"): path for key, path in users.items()})


def write(folder: Path, runtime, name: str, artifacts: dict[str, Path]) -> None:
    """All files of a table or figure, which are the same bytes twice."""
    drawn = KINDS[form(name)["kind"]].figure
    make, suffixes = (figures, ("png", "pdf", "csv")) if drawn else (tables, ("csv", "json", "md", "tex"))
    written = []
    for out in (folder / "first", folder / "second"):
        out.mkdir()
        make(out, {"table": name}, runtime=runtime, resume=out, published=PUBLISHED / f"{name}.yaml", **artifacts)
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert set(written[0]) == {f"{name}.{suffix}" for suffix in suffixes} and all(written[0].values())
    assert written[0] == written[1]


def test_means_over_seeds_are_the_tables(trial):
    """SE of the likelihood as `mean_and_se` has it for seeds and prompts."""
    values = [
        by_cluster(-f["log_p"], f["prompt"]) for f in (triplets_of(trial[f"policies:dpo/seed{s}"]) for s in range(3))
    ]
    line = lines(fair_trial_table(form("fair_trial"), trial)).loc[("Baseline DPO", "likelihood")]
    assert (line["mean"], line["se"]) == pytest.approx(mean_and_se(values))
