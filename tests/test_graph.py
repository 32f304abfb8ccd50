"""The graph that rules and audit share: every target is a job, and the job is the one that the rules would run."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mixdpo.fields import merged
from mixdpo.run.config import configuration, published
from mixdpo.run.graph import job, page_inputs, printed, table_inputs, targets
from mixdpo.run.settings import completed
from mixdpo.run.stages import STAGES
from mixdpo.run.yaml import shipped

ROOT = Path(__file__).parent.parent
CONFIG = completed(shipped(ROOT))
PUBLISHED = ROOT / "workflow/published"
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


def test_inputs_of_a_table():
    inputs = table_inputs(CONFIG, TABLES, "gates")
    assert inputs["gates:multi_task"] == "results/embedded/gates/multi_task/manifest.json"
    assert "gates:multi_reward" not in table_inputs(CONFIG, TABLES, "claims"), "no method there has a gate"
    assert table_inputs(CONFIG, TABLES, "claims")["table3"] == "workflow/published/table3.yaml"
    found = inputs["completions:multi_task/moe_case1/seed0"]
    assert found == "results/embedded/evaluations/multi_task/moe_case1/seed0/completions/manifest.json"


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
        words = shlex.split(line)
        given = {name: words[words.index(f"--{name}") + 1] for name in ("out", "spec")}
        found[given["out"]] = (words[words.index("mixdpo") + 1], json.loads(given["spec"]))
    tables = published(PUBLISHED, config)
    assert found == {manifest: job(config, tables, manifest) for manifest in targets(config, tables)}
