"""DVC keeps every output of Snakemake: a clone has nothing to do, an edit is named, an old commit comes back whole."""

import json
import re
import shlex
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, copy_project
from snakemake.utils import update_config
from test_workflow import jobs, kill_group

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
LOCAL = "assets={reviews: {source: embedded}, classifier: {source: reviews}, pipeline: {source: embedded}, feedback: {source: embedded}}"  # fmt: skip


def paths(entries: list) -> list[str]:
    """Paths of `deps`, `outs`, `metrics` or `plots`, which carry options or not."""
    return [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def outside(files: set[str], folders: list[str]) -> list[str]:
    return sorted(f for f in files if not any(Path(f).is_relative_to(folder) for folder in folders))


@pytest.mark.parametrize("name", PIPELINE["stages"])
def test_every_file_of_a_run_is_an_output_or_dependency_of_its_stage(name, tmp_path):
    """The assets' sources are set to those that need no file; the artifacts of a run are the same whatever they are."""
    stage = PIPELINE["stages"][name]
    command = [*shlex.split(stage["cmd"]), "--dry-run", "--config", LOCAL]
    plan = run(copy_project(tmp_path), *command)
    files = {
        kind: {
            path
            for line in re.findall(rf"^ +{kind}: (.+)$", plan, re.MULTILINE)
            for path in line.replace(" (update)", "").split(", ")
        }
        for kind in ("input", "output")
    }
    written, outs = files["output"], paths(stage["outs"])
    assert len(written) > 50
    assert outside(written, outs) == []
    assert outside(files["input"] - written, stage["deps"]) == []
    for compared in paths(PIPELINE["metrics"] + PIPELINE["plots"]):
        if not outside({compared}, outs):
            artifact = Path(compared).parent / "manifest.json"  # a curve's; a table's JSON is declared itself
            assert {compared, str(artifact)} & written, compared


def run(project: Path, *command: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def commit(project: Path, message: str) -> None:
    run(project, "git", "add", "--all")
    run(project, "git", "-c", "user.name=Test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", message)


def nothing_to_do(project: Path) -> None:
    """Of the default run, for Snakemake and for DVC."""
    assert jobs(project, config="config.yaml") == {}
    assert "up to date" in run(project, "dvc", "status", "reproduce")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A project whose default run is of the smallest size: run, recorded, pushed to a folder."""
    folder = tmp_path_factory.mktemp("recorded")
    project = copy_project(folder / "project")
    config = yaml.safe_load((project / "config.yaml").read_text())
    name = config["run"]
    update_config(config, yaml.safe_load((project / "tests/tiny.yaml").read_text()))
    config["experiments"] |= {"multi_task": None, "multi_user": None}
    (project / "config.yaml").write_text(yaml.safe_dump(config | {"run": name}, sort_keys=False))
    (project / "config/reviews.yaml").write_text("run: reviews\n")
    (project / "dvc.lock").unlink(missing_ok=True)
    run(project, "git", "init", "--quiet")
    run(project, "dvc", "remote", "add", "--default", "storage", str(folder / "remote"))
    commit(project, "Code and configuration")
    run(project, "snakemake", "--cores", "all")
    run(project, "dvc", "commit", "--force", "reproduce")
    commit(project, "A run")
    run(project, "dvc", "push")
    return project


@pytest.fixture(scope="module")
def repeated(recorded) -> dict:
    """The same project after an edit and `dvc repro`, killed at work and called again: what was seen on the way."""
    manifests = list((recorded / "results/embedded").rglob("manifest.json"))
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in manifests}
    text = (recorded / "config.yaml").read_text()
    assert text.count("prompts: 40") == 1
    (recorded / "config.yaml").write_text(text.replace("prompts: 40", "prompts: 39"))
    seen = {"status": run(recorded, "dvc", "status", "reproduce"), "jobs": jobs(recorded, config="config.yaml")}

    def made() -> set[Path]:
        """Artifacts that are not what they were."""
        now = {path: path.stat() for path in manifests if path.exists()}
        return {path for path, stat in now.items() if (stat.st_ino, stat.st_mtime_ns) != before[path]}

    started = time.time()

    def finished() -> bool:
        """Snakemake has recorded a job: an artifact appears a moment before."""
        return any(p.stat().st_mtime > started for p in (recorded / ".snakemake/metadata").iterdir())

    process = subprocess.Popen(
        ["dvc", "repro", "reproduce"],
        cwd=recorded,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not finished():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    kill_group(process.pid)
    process.wait()
    run(recorded, "snakemake", "--unlock")
    seen["after the kill"] = jobs(recorded, config="config.yaml")
    run(recorded, "dvc", "repro", "reproduce")
    commit(recorded, "Another run")
    return seen | {"made": {path.relative_to(recorded).parts[2] for path in made()}}


@pytest.mark.slow
def test_a_clone_has_nothing_to_do_after_a_pull(recorded, tmp_path):
    run(tmp_path, "git", "clone", "--quiet", str(recorded), "clone")
    clone = tmp_path / "clone"
    run(clone, "dvc", "pull", "reproduce")
    nothing_to_do(clone)
    assert "all match" in run(clone, "python", "-m", "mixdpo", "audit")
    assert run(clone, "git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_run_is_recorded_and_pulled_where_the_other_is_not(recorded, tmp_path):
    """Snakemake's records stay with the default run: `--touch --forceall` writes them anew for pulled results."""
    table = "paper_tables/reviews/validity.manifest.json"
    for name in ("first", "second"):
        run(tmp_path, "git", "clone", "--quiet", str(recorded), name)
    first, second = tmp_path / "first", tmp_path / "second"
    run(first, "snakemake", "--cores", "all", table, "--configfile", "config/reviews.yaml")
    run(first, "dvc", "commit", "--force", "reviews")
    commit(first, "The other run, one table of it")
    run(first, "dvc", "push", "reviews")
    run(second, "git", "pull", "--quiet", str(first))
    run(second, "dvc", "pull", "reviews")
    assert "up to date" in run(second, "dvc", "status", "reviews")
    run(second, "snakemake", "--cores", "all", "--touch", "--forceall", table, "--configfile", "config/reviews.yaml")
    assert jobs(second, table, config="config/reviews.yaml") == {}
    assert "up to date" in run(second, "dvc", "status", "reviews")
    (second / "config/reviews.yaml").write_text("run: reviews\nrewards: {validity: {n: 39}}\n")
    assert jobs(second, table, config="config/reviews.yaml") == {"validity": 1, "tables": 1}


@pytest.mark.slow
def test_an_edit_is_named_and_reruns_only_what_it_must(repeated):
    assert re.search(r"config.yaml:\s+modified:\s+evaluations\n", repeated["status"])
    assert repeated["jobs"].keys() == {"evaluations", "evaluation_rewards", "tables", "figures", "page"}
    assert 0 < sum(repeated["after the kill"].values()) < sum(repeated["jobs"].values())
    assert repeated["made"] == {"evaluations"}


@pytest.mark.slow
def test_an_old_commit_comes_back_whole(recorded, repeated):
    table = (recorded / "paper_tables/embedded/table1.json").read_bytes()
    for commit in ("HEAD~1", "-"):
        run(recorded, "git", "checkout", "--quiet", commit)
        run(recorded, "dvc", "checkout", "reproduce")
        nothing_to_do(recorded)
        now = (recorded / "paper_tables/embedded/table1.json").read_bytes()
        assert (now == table) == (commit == "-")


@pytest.mark.slow
def test_two_commits_are_compared(recorded, repeated, tmp_path):
    changes = json.loads(run(recorded, "dvc", "metrics", "diff", "HEAD~1", "--json"))
    row = changes["paper_tables/embedded/table1.json"]
    assert row["numbers.Baseline DPO.grammar.prompts"] == {"old": 40, "new": 39, "diff": -1}
    assert "numbers.Case 1 (Mixture), by token.informativeness.mean" in row
    run(recorded, "dvc", "plots", "diff", "HEAD~1", "--out", str(tmp_path))
    specs = map(json.loads, re.findall(r"var spec = (\{.*?\});?\n", (tmp_path / "index.html").read_text()))
    curves = [pd.DataFrame(spec["data"]["values"]) for spec in specs if spec]  # a run that is not here has empty ones
    assert len(curves) == len(list(recorded.glob("results/embedded/policies/**/curve.csv")))
    for curve in curves:
        assert set(curve["rev"]) == {"HEAD~1", "workspace"} and set(curve["field"]) == {"loss", "nll", "accuracy"}
