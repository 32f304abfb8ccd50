"""Settings: what is accepted means what it says, and every fault is one line that names its key."""

import copy
import difflib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from snakemake.utils import update_config

from mixdpo.errors import UserError
from mixdpo.fields import merged
from mixdpo.method.settings import Experts, Gate, Method, Optimiser, Phase, Posterior, Relaxation, Weights
from mixdpo.run.schema import COMMAND, editor_schema, full_schema, generated
from mixdpo.run.settings import completed
from mixdpo.run.yaml import read, shipped

ROOT = Path(__file__).parent.parent
OVERLAYS = ["config/paper.yaml", "config/reviews.yaml", "tests/tiny.yaml"]
SHIPPED = shipped(ROOT)
DEFAULT = completed(SHIPPED)
METHODS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "config/methods").glob("*.yaml"))
HEADS = {"experts": {"heads": 3}}


def changed(key: str, value) -> dict:
    config = copy.deepcopy(SHIPPED)
    *path, last = key.split(".")
    section = config
    for part in path:
        section = section.setdefault(part, {})
    section[last] = value
    return config


def fault(function, *arguments) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_methods_are_written_in_a_line():
    method = Method(Experts(4), Gate("user"), beta=0.3)
    assert method == Method(Experts(heads=4), Gate(sees="user", kind="gate"), beta=0.3)
    assert method == Method.of(
        {"experts": {"heads": 4}, "weights": {"kind": "gate", "sees": "user"}, "beta": 0.3, "phases": []}
    )
    assert Method(Experts(1)).weights == Weights() and Method(Experts(1)).experts.count == 1
    with pytest.raises(UserError):
        Method(Experts(1), Weights(), 0.1)


def test_a_method_cannot_be_changed_or_built_from_what_it_does_not_know():
    with pytest.raises(AttributeError):
        Method(Experts(1)).beta = 0.2
    for wrong, line in (
        (lambda: Experts(-1), "Experts.heads: expected a number ≥ 0, found -1; correct it"),
        (lambda: Experts(head=2), "Experts: expected a known key, found head; did you mean heads?"),
        (lambda: Gate("everyone"), "Gate.sees: expected one of prompt, user, found 'everyone'; correct it"),
    ):
        with pytest.raises(UserError) as error:
            wrong()
        assert str(error.value) == line
    with pytest.raises(UserError, match=r"^Method: expected .*; found epochs; delete it$"):
        Method(Experts(1), epochs=3)


@pytest.mark.parametrize("name", DEFAULT["policies"]["methods"])
def test_a_method_and_its_mapping_are_inverse(name):
    mapping = DEFAULT["policies"]["methods"][name]
    method = Method.of(mapping)
    assert method.as_dict() == mapping == json.loads(json.dumps(mapping, allow_nan=False))
    assert Method.of(method.as_dict()) == method and list(method.as_dict()) == list(mapping)


def test_every_setting_survives_the_round_trip():
    posterior = Posterior(0.5, 0.25, 0.125, 2.0, Relaxation("prior", 2, (2.0, 0.5)))
    phases = Phase(0.5, posterior, 0.3, 0.2), Phase(1.0)
    optimiser = Optimiser(1, 2, 3, 1e-5, 2e-5, 0.2, "cosine", 0.1, 2.0)
    experts = Experts(initial=("dpo/0", "mix/1"), adapter_rank=4, encoder="frozen", perturbation=0.0)
    gate = Gate("user", "uniform", 1.0, 0.5, False)
    how = {"beta": 0.2, "reward_update": "partition", "posterior": posterior, "phases": phases, "optimiser": optimiser}
    method = Method(experts, gate, styles=("grammar",), top_s=2, **how)
    assert Method.of(json.loads(json.dumps(method.as_dict()))) == method and experts.count == 2


def test_experts_of_a_whole_method_are_not_counted_without_it():
    assert Experts(initial=("mix_case1",)).count is None
    assert Method(Experts(initial=("mix_case1",)), top_s=9).top_s == 9


def test_a_phase_changes_what_it_names_until_it_ends():
    sharp = Posterior(confidence=0.5)
    phases = (Phase(0.25, gate_kl_uniform=1.0), Phase(0.5, sharp, beta=0.05))
    method = Method(Experts(2), Gate(kl_uniform=0.1), phases=phases)
    first, second, rest = method.at(0.0), method.at(0.25), method.at(0.5)
    assert (first.weights.kl_uniform, first.posterior, first.beta) == (1.0, Posterior(), 0.1)
    assert (second.weights.kl_uniform, second.posterior, second.beta) == (0.1, sharp, 0.05)
    assert rest == Method(Experts(2), Gate(kl_uniform=0.1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experts": {}}, ".experts: expected heads + models + adapters ≥ 1, found 0 experts; raise one of them"),
        ({"experts": {"heads": 2, "initial": ["dpo"]}}, ".experts: expected initial or copies, found both"),
        ({"experts": {"initial": ["DPO"]}}, ".experts.initial.0: expected text that matches"),
        ({"experts": {"heads": 2, "learn": False}, "weights": {"learn": False}}, ": expected experts.learn or weights"),
        ({"weights": {"initial": [0.5, 0.5]}}, ".weights.initial: expected 3 weights that sum to 1, found [0.5, 0.5]"),
        ({"weights": {"initial": [0.5, 0.5, 0.5]}}, ".weights.initial: expected weights that sum to 1, found"),
        ({"weights": {"initial": [0.5, 2, 0.5]}}, ".weights.initial.1: expected a number ≤ 1, found 2"),
        ({"weights": {"initial": 3}}, ".weights.initial: expected array, found 3"),
        ({"weights": {"sees": "user"}}, ".weights.sees: expected it with kind: gate, found kind: global; change one"),
        ({"weights": {"kind": "gate", "initial": [1.0]}}, ".weights: expected the keys kind, kl_uniform, learn"),
        ({"weights": {"kind": "gates"}}, ".weights.kind: expected one of global, gate, found 'gates'"),
        ({"weights": "gate"}, ".weights: expected object, found 'gate'"),
        ({"weights": {"kind": "gate", "perturbation": 1}}, ".weights.perturbation: expected it with sees: user"),
        (
            {"weights": {"kind": "gate", "sees": "user", "start": "domains"}},
            ".weights.start: expected uniform beside sees: user, found domains; a domain is no user",
        ),
        (
            {"posterior": {"confidence": 2}},
            ".posterior: expected entropy - confidence + kl_uniform + kl_w > 0, found -1",
        ),
        ({"posterior": {"relaxation": {"logits": "none"}}}, ".posterior.relaxation.logits: expected one of posterior"),
        ({"posterior": {"relaxation": {"temperature": [1]}}}, ".posterior.relaxation.temperature: expected at least 2"),
        ({"phases": [{"until": 0.6}, {"until": 0.3}]}, ".phases: expected until to rise, found [0.6, 0.3]; put them"),
        ({"phases": [{"until": 1, "posterior": {"kl_w": 0}}]}, ".phases.0.posterior: expected entropy - confidence"),
        ({"phases": [{"until": 1, "gate_kl_uniform": 1}]}, ".phases: expected gate_kl_uniform with weights.kind gate"),
        ({"phases": [{"beta": 1}]}, ".phases.0: expected the key until, found ['beta']"),
        ({"top_s": 4}, ".top_s: expected 1 to 3, its experts, found 4; correct it"),
        ({"top_s": 0}, ".top_s: expected a number ≥ 1, found 0"),
        ({"styles": ["grammar", "grammar"]}, ".styles: expected entries that differ from each other, found"),
        ({"optimiser": {"epoch": 1}}, ".optimiser: expected a known key, found epoch; did you mean epochs?"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, words):
    message = fault(Method.of, HEADS | changes, "policies.methods.mine")
    assert message.startswith(f"policies.methods.mine{words}"), message


@pytest.mark.parametrize("path", ["", *OVERLAYS])
def test_completing_fills_in_everything_and_then_changes_nothing(path):
    config = copy.deepcopy(SHIPPED)
    update_config(config, read(ROOT / path) if path else {})
    assert config == merged(SHIPPED, read(ROOT / path) if path else {}), "files are merged as Snakemake merges them"
    whole = completed(config)
    assert completed(whole) == whole == json.loads(json.dumps(whole, allow_nan=False))
    for method in whole["policies"]["methods"].values():
        assert method.keys() == Method(Experts(1)).as_dict().keys()


def test_config_yaml_says_what_the_defaults_are():
    """What it shows and a person does not change is what holds without it."""
    short = {"experiments": SHIPPED["experiments"], "policies": {"methods": SHIPPED["policies"]["methods"]}}
    assert completed(short) == DEFAULT


def test_what_is_absent_stays_absent_where_absence_says_something():
    experiments = DEFAULT["experiments"]
    assert "users" not in experiments["multi_reward"] and "rewards" not in experiments["multi_user"]
    assert experiments["multi_user"]["sft"] == {"learning_rate": 1.0e-3, "max_tokens": 96, "epochs": 4}
    assert completed(changed("experiments.multi_user", None))["experiments"]["multi_user"] is None
    assert DEFAULT["assets"]["base"]["local"] == {"path": None}


def test_methods_are_read_over_the_defaults_at_any_depth():
    defaults = {"optimiser": {"learning_rate": 5e-5}, "weights": {"kind": "gate", "kl_uniform": 0.1}}
    config = changed("policies.defaults", defaults)
    config["policies"]["methods"] = {
        "own_rate": HEADS | {"optimiser": {"learning_rate": 1e-3}},
        "own_kind": HEADS | {"weights": {"kind": "global"}},
        "own_start": HEADS | {"weights": {"start": "domains"}},
    }
    found = completed(config)["policies"]
    rates = [method["optimiser"]["learning_rate"] for method in found["methods"].values()]
    assert rates == [1e-3, 5e-5, 5e-5] and found["defaults"] == defaults
    assert found["methods"]["own_kind"]["weights"] == Method(Experts(1)).as_dict()["weights"]
    assert Method.of(found["methods"]["own_start"]).weights == Gate(start="domains", kl_uniform=0.1)


def test_whole_floats_are_integers_and_other_numbers_finite():
    config = completed(changed("sft.epochs", 2.0) | {"seeds": [1.0, 3]})
    assert config["seeds"] == [1, 3] and all(isinstance(n, int) for n in [*config["seeds"], config["sft"]["epochs"]])
    for value, expected in (float("nan"), "a finite number"), (float("inf"), "a finite number"), (True, "number"):
        message = fault(completed, changed("sft.learning_rate", value))
        assert message == f"sft.learning_rate: expected {expected}, found {value!r}; correct it in the configuration"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "reprot",
            {},
            "config: expected the keys assets, completions, evaluations, experiments, judge, page, policies, ",
        ),
        ("evaluation", {}, "config: expected a known key, found evaluation; did you mean evaluations?"),
        (
            "preferences.test_share",
            0.95,
            "preferences: expected validation_share and test_share below 1 together, found 1.05; lower one",
        ),
        ("preferences.annotators", [5, 5], "preferences.annotators: expected "),
        ("preferences.annotators", [1], "preferences.annotators.0: expected a number ≥ 2, found 1"),
        ("sft.learning_rte", 1, "sft: expected a known key, found learning_rte; did you mean learning_rate?"),
        (
            "sft.learning_rate",
            -1,
            "sft.learning_rate: expected a number > 0, found -1; correct it in the configuration",
        ),
        ("sft.learning_rate", "1e-4", "sft.learning_rate: expected number, found '1e-4'; write it with a point and a"),
        ("sft.epochs", "two", "sft.epochs: expected integer, found 'two'; correct it in the configuration"),
        ("sft.epochs", 1.5, "sft.epochs: expected integer, found 1.5;"),
        ("sft", None, "sft: expected object, found None;"),
        ("runtime.device", "tpu", "runtime.device: expected one of cpu, cuda, auto, found 'tpu';"),
        ("run", ["a"], "run: expected string, found ['a'];"),
        ("run", "My run", "run: expected text that matches ^[a-z][a-z0-9_]*$, found 'My run';"),
        ("seeds", [], "seeds: expected at least 1 entries, found [];"),
        ("seeds", [0, 0], "seeds: expected entries that differ from each other, found [0, 0];"),
        ("seeds", [2**32], "seeds.0: expected a number ≤ 4294967295, found 4294967296;"),
        ("seeds", [2**63], "seeds.0: expected a number of at most 64 bits"),
        ("assets.reviews.source", "disk", "assets.reviews.source: expected one of embedded, local, hub, found 'disk';"),
        (
            "assets.reviews.embedded.sizes.recipe",
            {},
            "assets.reviews.embedded.sizes.recipe: expected one of movie, book",
        ),
        (
            "assets.reviews.local.files",
            [{"path": "a", "domain": "movie", "split": "test", "seed": 1}],
            "assets.reviews.local.files.0: expected either split, or test_share with seed, found split, seed;",
        ),
        ("assets.base.hub.revision", "main", "assets.base.hub.revision: expected text that matches ^[0-9a-f]{40}$"),
        ("assets.base.reviews.heads", 3, "assets.base.reviews.heads: expected a divisor of width 128, found 3; choose"),
        ("assets.feedback.template", "{instruction} {x}", "assets.feedback.template: expected text that matches"),
        ("completions.prompt_tokens", [9, 2], "completions.prompt_tokens: expected [shortest, longest], found [9, 2]"),
        ("experiments", None, "experiments: expected object, found None;"),
        ("experiments", {}, "experiments: expected at least 1 entries, found [];"),
        ("experiments.Mine", None, "experiments.Mine: expected text that matches ^[a-z][a-z0-9_]*$, found 'Mine';"),
        (
            "experiments.multi_user.rewards",
            ["grammar"],
            "experiments.multi_user: expected either rewards, or users, found",
        ),
        (
            "experiments.multi_task.rewards",
            None,
            "experiments.multi_task: expected either rewards, or users, found none;",
        ),
        (
            "experiments.multi_user.users.taste",
            [],
            "experiments.multi_user.users: expected the keys disagreement_only, ",
        ),
        (
            "experiments.multi_user.users.styles",
            ["honesty"],
            "experiments.multi_user.users.styles: expected at least 2",
        ),
        (
            "experiments.multi_user.sft.epoch",
            1,
            "experiments.multi_user.sft: expected a known key, found epoch; did you",
        ),
        (
            "experiments.multi_user.sft.epochs",
            -1,
            "experiments.multi_user.sft.epochs: expected a number ≥ 0, found -1;",
        ),
        ("experiments.multi_user.base", {"source": "hub"}, "experiments.multi_user.base: expected the section hub, as"),
        (
            "experiments.multi_reward.other_definitions.tone",
            "tone_label",
            "experiments.multi_reward.other_definitions: expected keys from sentiment, informativeness, grammar",
        ),
        ("policies.methods", {}, "policies.methods: expected at least 1 entries, found [];"),
        ("policies.methods.dpo", {}, "policies.methods.dpo: expected the key experts, found [];"),
        ("policies.methods.dpo.btea", 1, "policies.methods.dpo: expected a known key, found btea; did you mean beta?"),
        (
            "policies.methods.dpo.experts.heads",
            -1,
            "policies.methods.dpo.experts.heads: expected a number ≥ 0, found -1;",
        ),
        (
            "policies.defaults.optimiser",
            {"epochs": 0},
            "policies.defaults.optimiser.epochs: expected a number ≥ 1, found",
        ),
        (
            "policies.defaults.weights",
            {"kind": "x"},
            "policies.defaults.weights.kind: expected one of global, gate, found",
        ),
        (
            "policies.methods.ablation_added.experts.initial",
            ["ablation_swapped"],
            "policies.methods.ablation_added.experts.initial: expected methods that start from copies, found",
        ),
        (
            "policies.methods.ablation_added.experts.initial",
            ["mix_case1/3"],
            "policies.methods.ablation_added.experts.initial: expected an expert of mix_case1 from 0 to 2, found",
        ),
        (
            "policies.methods.ablation_added.top_s",
            5,
            "policies.methods.ablation_added.top_s: expected 1 to 4, its experts",
        ),
        ("judge.llm.attempts", 0, "judge.llm.attempts: expected a number ≥ 1, found 0;"),
        ("judge.llm.prompt", "A or B?", "judge.llm.prompt: expected {instruction} in the template, found none; add it"),
        ("judge.lmm", "gpt", "judge.lmm: expected the section of a judge, found 'gpt'; delete it"),
        ("page.prompts", 101, "page.prompts: expected a number ≤ 100, found 101;"),
    ],
)
def test_faults_are_one_line(key, value, message):
    found = fault(completed, changed(key, value))
    assert found.startswith(message), found


def test_a_configuration_is_a_mapping():
    assert fault(completed, []) == "config: expected object, found []; correct it in the configuration"
    assert fault(completed, {1: 2}).startswith("config: expected the keys assets, ")
    assert fault(completed, {"a\nkey": 2}).endswith("; found a key; delete it")


def test_a_password_in_an_address_is_refused_and_not_shown():
    message = fault(completed, changed("judge.llm.endpoint", "https://me:secret@example.org/v1"))
    assert message.startswith("judge.llm.endpoint: expected an address without") and "secret" not in message


def test_a_judge_of_your_own_has_a_section():
    assert completed(changed("judge.longer", {"least": 3}))["judge"]["longer"] == {"least": 3}


def test_every_key_is_described():
    schema = full_schema()
    assert not [
        name for name, kind in schema["$defs"].items() if not (name.endswith("Changes") or "description" in kind)
    ]
    for name, kind in {"configuration": schema, **schema["$defs"]}.items():
        described = {
            key for key, value in kind.get("properties", {}).items() if "description" in value or "$ref" in value
        }
        assert described == kind.get("properties", {}).keys(), name


def test_generated_files_are_in_step_with_the_settings():
    for path, text in generated().items():
        written = (ROOT / path).read_text(encoding="utf-8")
        difference = difflib.unified_diff(written.splitlines(), text.splitlines(), str(path), "settings", lineterm="")
        assert written == text, f"type `{COMMAND}`\n" + "\n".join(difference)


def test_editors_accept_the_files_that_are_shipped_and_no_unknown_key():
    schema = editor_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for path in ["config.yaml", *METHODS, *OVERLAYS]:
        assert not list(validator.iter_errors(json.loads(json.dumps(read(ROOT / path))))), path
        target = (ROOT / path).read_text().splitlines()[0].partition("$schema=")[2]
        assert ((ROOT / path).parent / target).resolve() == ROOT / "mixdpo/run/config.schema.json"
    for wrong in {"sft": {"epoch": 1}}, {"policies": {"methods": {"mine": {"weights": {"sees": "all"}}}}}:
        assert list(validator.iter_errors(wrong)), wrong


def test_a_key_that_is_said_twice_is_named_with_its_line(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("policies: {}\nsft:\n  epochs: 1\n  seed: 2\n  epochs: 3\n")
    assert fault(read, file) == (f"{file}: expected each key once, found epochs again on line 5; delete one of the two")
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read(file)["b"] == {"x": 3, "y": 2}, "what a merge key brings in may be changed"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n", "expected keys with values, found list"),
        ("a: [1\n", "expected YAML, found: "),
        ("a: 2024-13-45\n", "expected a YAML file, found: month"),
    ],
)
def test_files_that_hold_no_keys_are_named(tmp_path, text, words):
    (tmp_path / "wrong.yaml").write_text(text)
    assert f"wrong.yaml: {words}" in fault(read, tmp_path / "wrong.yaml")
    (tmp_path / "empty.yaml").touch()
    assert read(tmp_path / "empty.yaml") == {}
    assert "none.yaml: expected a YAML file" in fault(read, tmp_path / "none.yaml")


def test_two_files_cannot_have_one_method(tmp_path):
    (tmp_path / "config/methods").mkdir(parents=True)
    (tmp_path / "config.yaml").touch()
    for name in "a", "b":
        (tmp_path / f"config/methods/{name}.yaml").write_text("policies: {methods: {dpo: {experts: {models: 1}}}}\n")
    assert "b.yaml: expected methods of other names than in" in fault(shipped, tmp_path)


def test_settings_load_without_torch():
    code = (
        "import sys, mixdpo.run.settings; print({'torch', 'pandas', 'transformers', 'snakemake'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
