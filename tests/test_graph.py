"""The graph that rules and audit share: every target is a job, and the job is the one that the rules would run."""

import copy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mixdpo.__main__ import job_parser
from mixdpo.fields import merged
from mixdpo.run.config import configuration, published
from mixdpo.run.graph import inputs_of, job, page_inputs, printed, table_inputs, targets
from mixdpo.run.layout import Key, is_manifest, parse
from mixdpo.run.settings import completed
from mixdpo.run.stages import STAGES
from mixdpo.run.yaml import shipped

ROOT = Path(__file__).parent.parent
CONFIG = completed(shipped(ROOT))
PUBLISHED = ROOT / "mixdpo/paper/published"
TABLES = published(PUBLISHED, CONFIG)


def test_every_target_is_a_job():
    stages = [job(CONFIG, TABLES, manifest)[0] for manifest in targets(CONFIG, TABLES)]
    some = {"tables", "figures", "page", "evaluations", "rewards", "embedded_reviews"}
    assert some <= set(stages) <= set(STAGES)


def test_sensitivity_is_a_target_of_its_own():
    """Its four trainings, each with completions and scores, are no part of `all`."""
    everything, more = targets(CONFIG, TABLES), targets(CONFIG, TABLES, "sensitivity")
    assert printed(CONFIG, "sensitivity") in more and not any("beta_0" in path for path in everything)
    varied = {path.split("/")[4] for path in more if "beta_0" in path}
    assert varied == {name for name in CONFIG["policies"]["methods"] if "beta_0" in name}
    assert {job(CONFIG, TABLES, path)[0] for path in more if "beta_0" in path} == {"policies", "evaluations", "rewards"}


def test_job_by_path(monkeypatch):
    assert job(CONFIG, TABLES, "results/embedded/reference_log_probs/multi_task/manifest.json") == (
        "reference_log_probs",
        {},
    )
    stage, spec = job(CONFIG, TABLES, "results/embedded/policies/multi_reward/mix_case1/seed0/manifest.json")
    assert (stage, spec["experts"]["heads"], spec["seed"]) == ("policies", 3, 0)
    stage, spec = job(CONFIG, TABLES, "results/embedded/evaluations/multi_task/dpo/seed0/rewards/manifest.json")
    assert (stage, spec) == ("rewards", {"names": ["sentiment", "sentiment_label"]})
    assert job(CONFIG, TABLES, printed(CONFIG, "figure2")) == ("figures", {"table": "figure2"})
    monkeypatch.chdir(ROOT)
    stage, spec = job(CONFIG, TABLES, printed(CONFIG, "index"))
    assert (stage, spec["prompts"], spec["run"]) == ("page", 12, "embedded")
    rate = next(line for line in spec["differences"] if line["stage"] == "sft" and line["key"] == "learning_rate")
    assert (rate["paper"], rate["here"], rate["of"]) == ("1.0e-05", "0.0003", ["multi_reward", "multi_task"])


def test_a_comment_in_a_configuration_changes_no_job(tmp_path, monkeypatch):
    """Neither file is an input of the page, and both say the same with another comment."""
    for name in "config.yaml", "config":
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    before = {path: job(CONFIG, TABLES, path) for path in targets(CONFIG, TABLES)}
    for name in "config.yaml", "config/paper.yaml":
        Path(name).write_text(Path(name).read_text() + "# a comment\n")
    config = configuration()
    assert {path: job(config, TABLES, path) for path in targets(config, TABLES)} == before
    assert not [path for path in page_inputs(config, TABLES).values() if path.startswith("config")]


def test_a_run_that_leaves_an_experiment_out_is_compared_without_it(tmp_path, monkeypatch):
    """The paper's overlay changes a part of that experiment, which alone would be no experiment."""
    for name in "config.yaml", "config":
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    changes = yaml.safe_load(Path("config.yaml").read_text())
    changes["experiments"]["multi_user"] = None
    Path("config.yaml").write_text(yaml.safe_dump(changes))
    config = configuration()
    stage, spec = job(config, published(PUBLISHED, config), "paper_tables/embedded/index.manifest.json")
    assert stage == "page" and {line["stage"] for line in spec["differences"]} > {"sft", "completions"}


def made_from(stage: str, experiment: str = "", policy: str = "", config: dict = CONFIG) -> dict[str, str]:
    return inputs_of(config, TABLES, Key(config["run"], stage, experiment, policy).manifest)


def test_inputs_by_experiment():
    """Users rate responses; rewards score completions of reviews."""
    assert made_from("preferences", "multi_task") == {
        "completions": "results/embedded/completions/multi_task/manifest.json",
        "rewards": "results/embedded/rewards/multi_task/manifest.json",
    }
    assert made_from("preferences", "multi_user").keys() == {"reference", "feedback"}
    assert made_from("sft", "multi_task")["reviews"] == "results/embedded/assets/reviews/manifest.json"
    assert made_from("sft", "multi_user")["reviews"] == "results/embedded/assets/feedback/manifest.json"
    assert made_from("evaluations", "multi_task", "reference").keys() == {
        "policy",
        "reference",
        "reviews",
        "completions",
    }
    assert made_from("evaluations", "multi_user", "reference") == {
        "policy": "results/embedded/sft/multi_user/manifest.json",
        "reference": "results/embedded/sft/multi_user/manifest.json",
        "feedback": "results/embedded/assets/feedback/manifest.json",
    }


def test_inputs_of_a_policy():
    """A gate where the method has one, and the policies of the same seed whose experts it starts from."""
    own = {"reference", "preferences", "reference_log_probs"}
    assert made_from("policies", "multi_reward", "dpo/seed0").keys() == own
    assert made_from("policies", "multi_task", "moe_case1/seed0").keys() == own | {"gate"}
    hybrid = {"experts": {"initial": ["dpo/0", "mix_case1/2"]}}
    config = completed(merged(CONFIG, {"policies": {"methods": {"hybrid": hybrid}}}))
    found = made_from("policies", "multi_reward", "hybrid/seed3", config)
    assert found["dpo"] == "results/embedded/policies/multi_reward/dpo/seed3/manifest.json"
    assert found.keys() == own | {"dpo", "mix_case1"}


def test_a_policy_is_judged_against_opponents_of_its_own_seed():
    assert made_from("judgements", "multi_user", "user_moe_case1/seed1") == {
        "policy": "results/embedded/evaluations/multi_user/user_moe_case1/seed1/completions/manifest.json",
        "reference": "results/embedded/evaluations/multi_user/reference/completions/manifest.json",
        "user_dpo": "results/embedded/evaluations/multi_user/user_dpo/seed1/completions/manifest.json",
    }


def test_inputs_of_assets():
    assert made_from("classifier") == {"reviews": "results/embedded/assets/reviews/manifest.json"}
    config = copy.deepcopy(CONFIG)
    config["assets"]["classifier"] = {"source": "local", "local": {"path": "models/mine"}}
    assert made_from("classifier", config=config) == {"model": "models/mine/config.json"}
    base = {"source": "local", "local": {"path": "models/own"}}
    config["experiments"]["multi_user"]["base"] = base
    assert made_from("bases", "multi_user", config=config) == {"model": "models/own/config.json"}
    assert made_from("sft", "multi_user", config=config)["base"] == "results/embedded/bases/multi_user/manifest.json"


def test_targets_are_complete():
    """Whatever an artifact of the run is made from is an artifact of the run, too."""
    wanted = targets(CONFIG, TABLES)
    behind = {path for manifest in wanted for path in inputs_of(CONFIG, TABLES, manifest).values()}
    assert set(filter(is_manifest, behind)) <= set(wanted)


def test_inputs_of_a_table():
    inputs = table_inputs(CONFIG, TABLES, "gates")
    assert inputs["gates:multi_task"] == "results/embedded/gates/multi_task/manifest.json"
    assert "gates:multi_reward" not in table_inputs(CONFIG, TABLES, "claims"), "no method there has a gate"
    assert table_inputs(CONFIG, TABLES, "claims")["table3"] == "mixdpo/paper/published/table3.yaml"
    found = inputs["completions:multi_task/moe_case1/seed0"]
    assert found == "results/embedded/evaluations/multi_task/moe_case1/seed0/completions/manifest.json"


def test_no_completions_are_made_for_the_page_alone():
    """Accuracy on comparisons needs no completions: specialists are trained, and never sampled from."""
    made = [path for path in targets(CONFIG, TABLES) if "user_specialist_honesty" in path]
    assert made == ["results/embedded/policies/multi_user/user_specialist_honesty/seed0/manifest.json"]
    assert "policies:multi_user/user_specialist_honesty/seed0" in page_inputs(CONFIG, TABLES)


def test_the_page_waits_for_every_table_of_its_target():
    inputs = page_inputs(CONFIG, TABLES).values()
    for name, table in TABLES.items():
        assert (printed(CONFIG, name) in inputs) == (table.get("target", "all") == "all")


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "embedded"},
        {"run": "users", "experiments": {"multi_reward": None, "multi_task": None}},
        {
            "run": "own_base",
            "assets": {"base": {"source": "hub"}, "feedback": {"source": "hub"}},
            "experiments": {
                "multi_reward": None,
                "multi_task": None,
                "multi_user": {"base": {"source": "hub", "hub": {"repository": "a/b", "revision": "0" * 40}}},
            },
            "judge": {"kind": "llm"},
        },
    ],
    ids=lambda changes: changes["run"],
)
def test_the_rules_run_these_jobs(changes, tmp_path, monkeypatch):
    """Command lines of a dry run from nothing: the stages and specs that `job` gives, for the targets and no other."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(changes))
    monkeypatch.chdir(ROOT)
    config = completed(merged(CONFIG, changes))
    command = ["snakemake", "--dry-run", "--forceall", "--printshellcmds", "--cores", "1", "--configfile", str(overlay)]
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "python -m mixdpo" in line]
    found = {}
    for line in lines:
        words = shlex.split(line.split("python -m mixdpo ")[1].partition(" > ")[0])
        arguments = job_parser().parse_intermixed_args(words)
        inputs = dict(pair.split("=", 1) for pair in arguments.inputs if not pair.startswith("record:"))
        found[arguments.out.as_posix()] = (arguments.stage, arguments.spec, arguments.record.as_posix(), inputs)
    tables = published(PUBLISHED, config)
    assert found == {
        manifest: (*job(config, tables, manifest), parse(manifest).record, inputs_of(config, tables, manifest))
        for manifest in targets(config, tables)
    }
