"""Every configuration in the repository is valid; every kind of fault is one line that names its key."""

import copy
import inspect
import json
from pathlib import Path

import pytest
import test_settings
import yaml
from snakemake.utils import update_config

from mixdpo.errors import UserError
from mixdpo.run.checks import RESERVED, check_tables, validate
from mixdpo.run.config import asset_files, configuration, methods_of, published, reward_model_files, spec
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped
from mixdpo.stages.judgements import judgements
from mixdpo.stages.policies import policies

ROOT = Path(__file__).parent.parent
SHIPPED = shipped(ROOT)
DEFAULT = completed(SHIPPED)


def overlaid(path: Path) -> dict:
    config = copy.deepcopy(SHIPPED)
    update_config(config, yaml.safe_load(path.read_text()))
    return completed(config)


def test_configurations_are_those_that_snakemake_merges(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert configuration() == configuration("embedded") == DEFAULT
    assert configuration("reviews") == overlaid(ROOT / "config/reviews.yaml")
    assert configuration(overlay="tests/tiny.yaml") == overlaid(ROOT / "tests/tiny.yaml")
    with pytest.raises(
        UserError,
        match="run: expected one of embedded, five_seeds, paper, reviews, truthfulqa, found tiny; name its file",
    ):
        configuration("tiny")


def test_a_run_that_is_no_name_is_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("run: [a]")
    with pytest.raises(UserError, match=r"^run: expected string, found \['a'\]"):
        configuration(overlay=str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "config").glob("*.yaml")), ROOT / "tests/tiny.yaml"], ids=lambda p: p.stem
)
def test_overlays_are_valid(path, tmp_path, monkeypatch):
    """Local files are made up, so that an overlay is checked where they are not."""
    config = overlaid(path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for asset in config["assets"]:
        for file in asset_files(config, asset).values():
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).touch()
    validate(config)
    check_tables(config, published(ROOT / "mixdpo/paper/published", config))


def test_default_is_valid():
    validate(DEFAULT)


@pytest.mark.parametrize(
    ("overlay", "per_prompt"), [("", 8), ("tests/tiny.yaml", 3), ("config/reviews.yaml", 4), ("config/paper.yaml", 4)]
)
def test_pairs_of_a_prompt_identify_a_mixture(overlay, per_prompt, monkeypatch):
    """Two completions of a prompt have one order, which fits every mixture."""
    monkeypatch.chdir(ROOT)
    assert configuration(overlay=overlay)["completions"]["per_prompt"] == per_prompt


def changed(key: str, value) -> dict:
    """The default configuration with another value at a dotted key, completed."""
    return completed(test_settings.changed(key, value))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("completions.max_new_tokens", 1000, ["positions", "1008", "128"]),
        (
            "experiments.multi_reward",
            {"domains": ["movie"], "rewards": ["humour"]},
            ["experiments.multi_reward.rewards", "sentiment", "humour"],
        ),
        ("experiments.multi_reward.domains", ["recipe"], ["experiments.multi_reward.domains", "movie", "recipe"]),
        ("assets.base.source", "local", ["assets.base.local.path", "found none"]),
    ],
)
def test_faults_are_one_line(key, value, words):
    with pytest.raises(UserError) as error:
        validate(changed(key, value))
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    assert ";" in message, "says what to do next"
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("experiments", {"other": DEFAULT["experiments"]["multi_reward"]}, ["experiments", "multi_reward"]),
        (
            "experiments.multi_reward",
            {"domains": ["movie"], "rewards": ["sentiment"]},
            ["multi_reward.rewards", "informa"],
        ),
        ("policies.methods", {"other": {"experts": {"models": 1}}}, ["policies.methods", "expected dpo"]),
        ("policies.methods.dpo.styles", ["honesty"], ["dpo.styles: expected some of", "found honesty"]),
        ("policies.methods.moe_case1.experts.heads", 3, ["policies.methods.moe_case1", "movie, book", "found 3"]),
        (
            "experiments.multi_task.domains",
            ["book", "movie"],
            ["multi_task.domains", "expected movie, book", "book, movie"],
        ),
        ("policies.methods.mix_case1.experts.heads", 2, ["mix_case1", "2 experts", "found expert2"]),
        ("policies.methods.mix_case1", {"experts": {"models": 3}}, ["mix_case1.experts.heads", "figure1", "found 0"]),
    ],
)
def test_tables_that_the_configuration_cannot_fill_are_named(key, value, words):
    with pytest.raises(UserError) as error:
        check_tables(changed(key, value), published(ROOT / "mixdpo/paper/published", DEFAULT))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("policy", "mix_case9", ["policies.methods", "mix_case9", "claims.yaml"]),
        ("baseline", "mix_case9", ["policies.methods", "mix_case9", "claims.yaml"]),
        ("decoding", "greedy", ["claims.yaml: case1_over_dpo_grammar", "mix_case1", "sequence", "found greedy"]),
        ("baseline_decoding", "sequence", ["case1_over_dpo_grammar", "dpo", "1 experts", "found sequence"]),
        ("reward", "humour", ["case1_over_dpo_grammar", "sentiment_label", "found humour", "experiments.multi_reward"]),
        ("domain", "book", ["case1_over_dpo_grammar", "expected a domain from movie", "found book"]),
        ("domains", ["book"], ["experiments.multi_reward.domains", "expected book", "found movie"]),
        ("test", "larger", ["case1_over_dpo_grammar", "greater, less, equal", "found larger"]),
        ("test", "equal", ["case1_over_dpo_grammar", "expected the key target"]),
        ("measure", "words", ["case1_over_dpo_grammar", "heads_told_by_words", "found words"]),
    ],
)
def test_claims_that_the_configuration_cannot_test_are_named(key, value, words):
    tables = published(ROOT / "mixdpo/paper/published", DEFAULT)
    row = next(row for row in tables["claims"]["rows"] if row["claim"] == "case1_over_dpo_grammar")
    row[key] = value
    with pytest.raises(UserError) as error:
        check_tables(DEFAULT, tables)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), str(error.value)


def test_settings_vary_the_rewards_decodings_and_methods_that_they_touch():
    rows = published(ROOT / "mixdpo/paper/published", DEFAULT)["sensitivity"]["rows"]
    found = {(row["setting"], row["claim"]): row for row in rows}
    assert found["β = 0.2", "case1_over_dpo_grammar"]["policy"] == "mix_case1_beta_0_2"
    assert found["β = 0.2", "case1_over_dpo_grammar"]["baseline"] == "dpo_beta_0_2"
    assert found["β = 0.2", "dpo_over_reference_grammar"]["baseline"] == "reference"
    assert found["Other definition", "case1_over_dpo"]["reward"][0] == "sentiment_label"
    assert found["One expert", "fixed_under_case1_grammar"]["baseline_decoding"] == "sparse"
    assert "baseline_decoding" not in found["By sequence", "case1_over_dpo_grammar"], "one expert has one decoding"
    assert found["As claimed", "gate_accuracy_test"]["policy"] == "moe_case1_frozen_gate"
    untouched = [("β = 0.05", "fixed_over_dpo_grammar"), ("By sequence", "dpo_over_reference_grammar")]
    assert not {*untouched, ("Other definition", "gate_accuracy_test")} & found.keys()


def test_missing_local_file_is_named():
    files = [{"path": "nowhere.parquet", "domain": "movie", "split": "train"}]
    config = changed("assets.reviews", {"source": "local", "local": {"files": files}})
    with pytest.raises(UserError, match=r"assets\.reviews.*nowhere\.parquet"):
        validate(config)


@pytest.mark.parametrize(
    ("section", "value", "key"),
    [
        ("assets.reviews", {"files": [{"path": "my/a"}, {"path": "PATH"}]}, "assets.reviews.local.files.1.path"),
        *((f"assets.{name}", {"path": "PATH"}, f"assets.{name}.local.path") for name in ("feedback", "base", "classifier", "pipeline")),
        ("experiments.multi_user.base", {"path": "PATH"}, "experiments.multi_user.base.local.path"),
        ("judge.rating", {"scorer": "model", "path": "PATH"}, "judge.rating.path"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["results/embedded/assets/reviews/mine", "paper_tables/mine", "link/mine"])
def test_a_local_path_where_runs_write_is_refused(section, value, key, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in "results", "paper_tables":
        Path(folder).mkdir()
    Path("link").symlink_to("results")
    value = json.loads(json.dumps(value).replace("PATH", path))
    for entry in value.get("files", []):
        entry |= {"domain": "movie", "split": "train"}
    if section != "judge.rating":
        known = {} if section.startswith("experiments") else DEFAULT["assets"][section.partition(".")[2]]
        value = known | {"source": "local", "local": known.get("local", {}) | value}
    config = changed(section, value)
    with pytest.raises(UserError) as error:
        validate(config)
    folder = path.partition("/")[0].replace("link", "results")
    assert str(error.value) == f"{key}: expected a path outside {folder}/, which runs write, found {path}; move it away"


def test_a_spec_holds_its_slice_only():
    """An edited evaluation setting changes the specs of evaluations and of nothing else."""
    edited = changed("evaluations.prompts", 77)
    stages = [
        "reviews",
        "base",
        "classifier",
        "pipeline",
        "sft",
        "completions",
        "rewards",
        "validity",
        "preferences",
        "reference_log_probs",
        "gates",
        "policies",
    ]
    for stage in stages:
        assert spec(DEFAULT, stage, "multi_reward", "dpo/seed0") == spec(edited, stage, "multi_reward", "dpo/seed0")
    assert spec(DEFAULT, "evaluations", "multi_reward", "dpo/seed0") != spec(
        edited, "evaluations", "multi_reward", "dpo/seed0"
    )


def test_settings_reach_the_policies_stage_unchanged():
    """Every number of a method of users, as its stage is given it."""
    assert spec(DEFAULT, "policies", "multi_user", "user_moe_case1/seed7") == {
        "experts": {
            "heads": 4,
            "models": 0,
            "adapters": 0,
            "adapter_rank": 8,
            "initial": [],
            "learn": True,
            "encoder": "frozen",
            "perturbation": 0.1,
        },
        "weights": {
            "sees": "user",
            "start": "uniform",
            "perturbation": 0.0,
            "kl_uniform": 0.0,
            "learn": True,
            "kind": "gate",
        },
        "beta": 0.3,
        "reward_update": "implicit",
        "posterior": {
            "entropy": 0.0,
            "confidence": 0.0,
            "kl_uniform": 0.0,
            "kl_w": 1.0,
            "relaxation": None,
            "unit": "user",
            "annealing": 1.0,
            "taught": None,
        },
        "phases": [],
        "styles": None,
        "pairs": "all",
        "user_in_prompt": False,
        "restarts": 8,
        "optimiser": {
            "epochs": 3,
            "batch_size": 16,
            "accumulate": 1,
            "learning_rate": 6e-4,
            "gate_learning_rate": 3e-3,
            "warmup": 0.1,
            "schedule": "linear",
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
        },
        "seed": 7,
    }


def test_how_many_experts_decode_a_policy_is_nothing_that_its_training_sees():
    edited = changed("policies.methods.mix_case1.top_s", 2)
    of = {
        stage: [spec(config, stage, "multi_reward", "mix_case1/seed0") for config in (DEFAULT, edited)]
        for stage in ("policies", "evaluations")
    }
    assert of["policies"][0] == of["policies"][1] and [s["top_s"] for s in of["evaluations"]] == [None, 2]
    assert spec(edited, "evaluations", "multi_reward", "reference")["top_s"] is None


def test_methods_have_their_own_scales():
    edited = changed("evaluations.scales", {"mix_case1": [0.5]})
    edited["experiments"]["multi_reward"].pop("evaluations")
    found = [
        spec(edited, "evaluations", "multi_reward", policy)["scales"]
        for policy in ("reference", "mix_case1/seed0", "dpo/seed0")
    ]
    assert found == [[], [0.5], []]


def test_a_reward_model_is_known_by_all_its_files(tmp_path):
    """The judge of the default run has none."""
    for name in "config.json", "model-2.safetensors", "model-1.safetensors", "notes.txt":
        (tmp_path / name).touch()
    files = reward_model_files(changed("judge.rating", {"scorer": "model", "path": str(tmp_path)}))
    names = ["config.json", "model-1.safetensors", "model-2.safetensors"]
    assert files == {f"reward_model/{name}": str(tmp_path / name) for name in names}
    assert reward_model_files(DEFAULT) == {}


def test_no_method_can_be_named_like_an_argument_of_a_stage_that_takes_methods():
    for stage in policies, judgements:
        parameters = inspect.signature(stage).parameters.values()
        assert {p.name for p in parameters if p.kind != inspect.Parameter.VAR_KEYWORD} <= set(RESERVED)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("judge.kind", "oracle", ["judge.kind", "rating, llm", "found oracle"]),
        ("judge.rating", {"scorer": "model", "path": None}, ["judge.rating.path", "reward model", "found none"]),
        ("judge.opponents", ["user_dpq"], ["judge.opponents", "found user_dpq"]),
        ("assets.feedback.source", "hub", ["judge.rating.scorer", "expected model", "found embedded"]),
        ("experiments.multi_user.domains", ["movie"], ["multi_user.domains", "expected [instruction]", "movie"]),
        ("experiments.multi_user.users.max_tokens", 120, ["multi_user.users", "128 positions", "found 148"]),
        ("policies.methods.policy", {"experts": {"adapters": 2}}, ["methods.policy", "found policy; rename it"]),
        ("experiments.multi_user.users.styles", ["helpfulness", "brevity"], ["users.styles", "found brevity; correct"]),
        (
            "assets.feedback.aspects",
            ["helpfulness", "honesty"],
            ["users.styles", "expected some of helpfulness, honesty,"],
        ),
        ("judge.longer", {}, ["judge.longer: expected the section of a judge (rating, llm)", "found longer"]),
        ("judge.rating", {"scorer": "model", "path": "no/such"}, ["judge.rating.path", "no/such/config.json"]),
    ],
)
def test_faults_of_users_and_extensions_are_one_line(key, value, words):
    with pytest.raises(UserError) as error:
        validate(changed(key, value))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("judge.opponents", ["user_dpo"], ["judge.opponents", "expected reference", "found user_dpo"]),
        ("judge.opponents", ["user_moe_case1", "user_dpo", "reference"], ["expected no user_moe_case1", "delete it"]),
        ("policies.methods.user_moe_case1.experts.heads", 1, ["user_moe_case1", "1 experts"]),
    ],
)
def test_tables_of_users_that_the_configuration_cannot_fill_are_named(key, value, words):
    with pytest.raises(UserError) as error:
        check_tables(config := changed(key, value), published(ROOT / "mixdpo/paper/published", config))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value


def test_a_row_may_have_a_policy_for_each_style():
    """Those of the experiment, whatever they are."""
    tables = published(ROOT / "mixdpo/paper/published", DEFAULT)
    styles = DEFAULT["experiments"]["multi_user"]["users"]["styles"]
    row = tables["held_out"]["rows"][-1]
    assert row["policies"] == {style: f"user_specialist_{style}" for style in styles}
    assert methods_of(tables["held_out"], "multi_user")[-4:] == list(row["policies"].values())
    two = changed("experiments.multi_user.users.styles", styles[:2])
    fewer = published(ROOT / "mixdpo/paper/published", two)["held_out"]
    assert list(fewer["rows"][-1]["policies"]) == styles[:2]
    del two["policies"]["methods"]["user_specialist_honesty"]
    with pytest.raises(UserError, match=r"expected user_specialist_honesty, which .*held_out\.yaml prints; add it"):
        check_tables(two, {"held_out": fewer})


def test_new_users_are_judged_against_an_opponent():
    tables = {"new_users": published(ROOT / "mixdpo/paper/published", DEFAULT)["new_users"]}
    with pytest.raises(UserError, match=r"judge\.opponents: expected user_dpo, which .*new_users\.yaml prints, found"):
        check_tables(changed("judge.opponents", ["reference"]), tables)


def test_policies_compared_at_equal_kl_are_all_scaled():
    tables = {"frontier": published(ROOT / "mixdpo/paper/published", DEFAULT)["frontier"]}
    check_tables(DEFAULT, tables)
    edited = changed("experiments.multi_reward.evaluations.scales", {"mix_annotators_25": [0.5]})
    with pytest.raises(
        UserError, match=r"^evaluations\.scales: expected dpo, which .*frontier\.yaml compares at equal KL"
    ):
        check_tables(edited, tables)
    edited = changed("policies.methods.dpo.experts.encoder", "trained")
    with pytest.raises(
        UserError, match=r"^evaluations\.scales: expected methods whose experts are all heads .* found dpo"
    ):
        check_tables(edited, tables)


def test_an_experiment_left_out_leaves_out_its_tables():
    config = changed("experiments.multi_user", None)
    validate(config)
    tables, whole = (published(ROOT / "mixdpo/paper/published", c) for c in (config, DEFAULT))
    check_tables(config, tables)
    assert set(whole) - set(tables) == {
        "poster_table3",
        "poster_figure",
        "length_bias",
        "users",
        "users_win_rates",
        "users_architectures",
        "held_out",
        "new_users",
        "new_users_figure",
    }
    assert tables["preferences"]["experiments"] == ["multi_reward", "multi_task"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "expected the keys kind, title and where, found no text as kind; add it"),
        ("{kind: zzz, title: T, where: ours}", "kind: expected one of .*, found zzz; correct it"),
        ("{kind: rewards, title: T, where: ours, target: zzz}", "target: expected one of .*, found zzz; correct it"),
        ("{kind: rewards, title: T, where: ours, rows: [{policy: dpo}]}", "rows: expected mappings with a name, or"),
        ("{kind: rewards, title: T, where: ours, rows: [a]}", "rows: expected mappings with a name, or a claim"),
        ("{kind: rewards, title: T, where: ours, rows: [{name: a}, {name: a}]}", "found a twice; rename one"),
    ],
)
def test_a_published_table_that_nothing_can_make_is_one_line(text, line, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"mine\.yaml: .*{line}") as error:
        published(tmp_path, DEFAULT)
    assert "\n" not in str(error.value)
