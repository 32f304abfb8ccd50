"""Every configuration in the repository is valid; every kind of fault is one line that names its key."""

import copy
import inspect
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from mixdpo.errors import UserError
from mixdpo.run.checks import RESERVED, check_tables, validate
from mixdpo.run.config import asset_files, configuration, published, reward_model_files, spec
from mixdpo.stages.judgements import judgements
from mixdpo.stages.policies import policies

ROOT = Path(__file__).parent.parent
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def overlaid(path: Path) -> dict:
    config = copy.deepcopy(DEFAULT)
    update_config(config, yaml.safe_load(path.read_text()))
    return config


def test_configurations_are_those_that_snakemake_merges(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert configuration() == configuration("embedded") == DEFAULT
    assert configuration("reviews") == overlaid(ROOT / "config/reviews.yaml")
    assert configuration(overlay="tests/tiny.yaml") == overlaid(ROOT / "tests/tiny.yaml")
    with pytest.raises(UserError, match="run: expected one of embedded, paper, reviews, found tiny; name its file"):
        configuration("tiny")


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


def test_every_key_is_described():
    def keys(schema, name):
        for key, value in schema.get("properties", {}).items():
            target = SCHEMA["$defs"][value["$ref"].rsplit("/", 1)[1]] if "$ref" in value else {}
            if not (value.get("description") or target.get("description")):
                yield f"{name}{key}"
            yield from keys(value, f"{name}{key}.")
            yield from keys(target, f"{name}{key}.")
        for inner in (schema.get("items"), schema.get("additionalProperties")):
            if isinstance(inner, dict):
                yield from keys(inner, f"{name}*.")

    assert list(keys(SCHEMA, "")) == []


def test_default_is_valid():
    validate(DEFAULT)


def changed(key: str, value) -> dict:
    config = copy.deepcopy(DEFAULT)
    *path, last = key.split(".")
    section = config
    for part in path:
        section = section[part]
    section[last] = value
    return config


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sft.learning_rte", 1, ["sft:", "learning_rte", "did you mean learning_rate?"]),
        ("sft.learning_rate", -1, ["sft.learning_rate", "> 0", "-1"]),
        ("sft.epochs", "two", ["sft.epochs", "integer", "two"]),
        ("runtime.device", "tpu", ["runtime.device", "cuda", "tpu"]),
        ("seeds", [], ["seeds", "at least 1"]),
        ("seeds", [0, 0], ["seeds", "differ"]),
        ("assets.reviews.source", "disk", ["assets.reviews.source", "embedded", "disk"]),
        ("assets.base.hub.revision", "main", ["assets.base.hub.revision", "main"]),
        ("completions.prompt_tokens", [9, 2], ["completions.prompt_tokens", "[9, 2]"]),
        ("completions.max_new_tokens", 1000, ["positions", "1008", "128"]),
        ("assets.base.reviews.heads", 3, ["assets.base.reviews.heads", "divisor", "3"]),
        ("policies.methods.dpo", {}, ["policies.methods.dpo", "independent_models", "≥ 1", "0 experts"]),
        ("policies.methods.dpo.btea", 0.1, ["policies.methods.dpo", "btea", "did you mean beta?"]),
        ("policies.defaults.reward_update", "twice", ["reward_update", "one_step", "twice"]),
        ("policies.methods.mix_case1.top_s", 4, ["mix_case1.top_s: expected 1 to 3", "found 4"]),
        ("policies.methods.mix_case1.top_s", 0, ["mix_case1.top_s", "≥ 1", "found 0"]),
        ("policies.methods.mix_case1.initial_weights", [0.5, 0.5], ["mix_case1.initial_weights", "3 weights"]),
        ("policies.methods.mix_case1.initial_weights", [0.5, 0.5, 0.5], ["initial_weights", "sum to 1", "1.5"]),
        ("policies.methods.mix_case1.initial_weights", [0.5, 2, 0.5], ["initial_weights", "≤ 1", "found 2"]),
        ("policies.methods.mix_case1.initial_weights", 3, ["initial_weights", "array", "found 3"]),
        ("policies.methods.moe_case1.initial_weights", [0.5, 0.5], ["moe_case1.initial_weights", "gate"]),
        ("policies.methods.mix_case1_fixed.learn_experts", False, ["mix_case1_fixed", "learn_weights"]),
        (
            "policies.defaults.responsibilities",
            {"entropy": 0, "confidence": 2, "kl_uniform": 0, "kl_w": 1},
            ["responsibilities", "> 0", "-1", "lower confidence"],
        ),
        ("experiments.multi_reward.rewards", ["humour"], ["experiments.multi_reward.rewards", "sentiment", "humour"]),
        ("experiments.multi_reward.domains", ["recipe"], ["experiments.multi_reward.domains", "movie", "recipe"]),
        ("assets.base.source", "local", ["assets.base.local.path", "found none"]),
        ("experiments.multi_reward.domains", [], ["experiments.multi_reward.domains", "at least 1"]),
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
        ("experiments.multi_reward.rewards", ["sentiment"], ["multi_reward.rewards", "informativeness"]),
        ("policies.methods", {"other": {"independent_models": 1}}, ["policies.methods", "mix_case1"]),
        ("policies.methods.moe_case1.shared_heads", 3, ["policies.methods.moe_case1", "movie, book", "found 3"]),
        (
            "experiments.multi_task.domains",
            ["book", "movie"],
            ["multi_task.domains", "expected movie, book", "book, movie"],
        ),
        ("policies.methods.mix_case1.shared_heads", 2, ["mix_case1", "2 experts", "found expert2"]),
        ("policies.methods.mix_case1", {"independent_models": 3}, ["mix_case1.shared_heads", "figure1", "found 0"]),
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
    config = changed("assets.reviews.source", "local")
    config["assets"]["reviews"]["local"]["files"] = [{"path": "nowhere.parquet", "domain": "movie", "split": "train"}]
    with pytest.raises(UserError, match=r"assets\.reviews.*nowhere\.parquet"):
        validate(config)


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


def test_how_many_experts_decode_a_policy_is_nothing_that_its_training_sees():
    edited = changed("policies.methods.mix_case1.top_s", 2)
    of = {
        stage: [spec(config, stage, "multi_reward", "mix_case1/seed0") for config in (DEFAULT, edited)]
        for stage in ("policies", "evaluations")
    }
    assert of["policies"][0] == of["policies"][1] and [s["top_s"] for s in of["evaluations"]] == [None, 2]
    assert spec(edited, "evaluations", "multi_reward", "reference")["top_s"] is None


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
        ("judge.llm.attempts", 0, ["judge.llm.attempts", "found 0"]),
        ("assets.feedback.source", "hub", ["judge.rating.scorer", "expected model", "found embedded"]),
        ("assets.feedback.template", "Q:", ["assets.feedback.template", "instruction"]),
        ("experiments.multi_user.domains", ["movie"], ["multi_user.domains", "expected [instruction]", "movie"]),
        ("experiments.multi_user.users.max_tokens", 120, ["multi_user.users", "128 positions", "found 148"]),
        ("experiments.multi_user.sft", {"epoch": 1}, ["multi_user.sft", "found epoch"]),
        ("experiments.multi_user.rewards", ["grammar"], ["experiments.multi_user", "either rewards, or users"]),
        ("policies.methods.user_moe_case1.weights", "global", ["user_moe_case1.user_gate", "weights: gate"]),
        ("policies.methods.user_moe_case1.pretrained_gate", True, ["pretrained_gate", "found true"]),
        (
            "policies.methods.user_moe_case1.phases",
            [{"until": 1.0, "responsibilities": {"entropy": 0, "confidence": 1, "kl_uniform": 0, "kl_w": 1}}],
            ["user_moe_case1.phases", "found 0"],
        ),
        (
            "policies.methods.ablation_added.initial_experts",
            ["mix_case9"],
            ["ablation_added.initial_experts", "mix_case9"],
        ),
        ("policies.methods.ablation_added.initial_experts", ["mix_case1/3"], ["expert of mix_case1 from 0 to 2", "/3"]),
        ("policies.methods.ablation_added.shared_heads", 2, ["ablation_added", "found both"]),
        ("experiments.multi_reward.evaluations", {"prompt": 3}, ["multi_reward.evaluations", "found prompt"]),
        ("experiments.multi_user.sft", {"learning_rate": "fast"}, ["multi_user.sft.learning_rate", "found 'fast'"]),
        ("assets.feedback.template", "{instruction} {x}", ["assets.feedback.template", "{x}"]),
        (
            "policies.methods.dpo.phases",
            [{"until": 0.6}, {"until": 0.3}],
            ["dpo.phases", "until to rise", "[0.6, 0.3]"],
        ),
        ("policies.methods.dpo.phases", [{"until": 1.0, "kl_w_global": 1}], ["dpo.kl_w_global", "weights: gate"]),
        ("policies.methods.moe_case1.gate_perturbation", 1, ["moe_case1.gate_perturbation", "user_gate false"]),
        ("policies.methods.policy", {"adapters": 2}, ["policies.methods.policy", "found policy; rename it"]),
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
        (
            "experiments.multi_user.users.styles",
            ["helpfulness", "honesty"],
            ["multi_user.users.styles", "truthfulness"],
        ),
        ("policies.methods.user_moe_case1.shared_heads", 1, ["user_moe_case1", "1 experts"]),
    ],
)
def test_tables_of_users_that_the_configuration_cannot_fill_are_named(key, value, words):
    with pytest.raises(UserError) as error:
        check_tables(changed(key, value), published(ROOT / "mixdpo/paper/published", DEFAULT))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value


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
    }
    assert tables["preferences"]["experiments"] == ["multi_reward", "multi_task"]
