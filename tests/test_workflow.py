"""The whole DAG on the smallest embedded world: it runs, it reruns what it must, and it survives what befalls it."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ENVIRONMENT, ROOT, copy_project, snakemake

from mixdpo.provenance.record import processor_time

pytestmark = pytest.mark.slow


def jobs(project: Path, *arguments: str, config: str = "tests/tiny.yaml") -> dict[str, int]:
    """Job counts that a dry run announces; none when there is nothing to do."""
    done = snakemake(project, "--dry-run", *arguments, config=config)
    assert done.returncode == 0, done.stderr[-3000:]
    output = done.stdout + done.stderr
    assert "missing provenance" not in output
    table = output.partition("Job stats:")[2].partition("total")[0]
    counts = {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}
    counts.pop("all", None)
    return counts


def test_tables_are_there(project):
    folder = project / "paper_tables/tiny"
    for name in ("table1", "table2", "table3", "poster_table1"):
        table = pd.read_csv(folder / f"{name}.csv")
        rows = yaml.safe_load((ROOT / f"mixdpo/paper/published/{name}.yaml").read_text())["rows"]
        assert list(table["row"].unique()) == [row["name"] for row in rows]
        assert table["mean"].notna().all() and (table["se"] > 0).all()
        assert (table["prompts"] == (20 if name == "table2" else 40)).all()
    for name in ("poster_table3", "length_bias", "users", "fair_trial", "frontier", "held_out", "new_users"):
        assert pd.read_csv(folder / f"{name}.csv")["mean"].notna().any()
    assert "0.465 ± 0.002 (Table 1); 0.232 ± 0.002 (Table 3)" in (folder / "table1.md").read_text()
    assert r"\toprule" in (folder / "table1.tex").read_text()
    kl = pd.read_csv(folder / "alignment.csv").query("column == 'kl'").set_index("row")["mean"]
    assert abs(kl["Reference (SFT)"]) < 1e-5 < kl.drop("Reference (SFT)").abs().min()
    validity = pd.read_csv(folder / "validity.csv")
    assert set(validity["reward"]) == {"sentiment", "informativeness", "grammar"}
    claims = pd.read_csv(folder / "claims.csv")
    assert set(claims["verdict"]) <= {"supported", "not supported", "undecided", "not judged", "not tested"}
    assert ((claims["verdict"] == "not judged") == (claims["seeds"] == 1)).all(), "of one seed"
    assert claims["effect"].count() == (claims["verdict"] != "not tested").sum() > 40
    differences = claims[claims["claim"].str.contains("over_dpo_")]
    assert differences[["se", "low", "high", "n"]].notna().all(axis=None)


def test_figures_are_there(project):
    ours = ("forest", "annotators", "frontier_figure", "new_users_figure")
    for name in ("figure1", "figure2", "figure3", "figure4", "poster_figure", *ours):
        for suffix in ("png", "pdf", "csv"):
            assert (project / f"paper_tables/tiny/{name}.{suffix}").stat().st_size > 100


def test_page_is_there(project):
    page = (project / "paper_tables/tiny/index.html").read_text()
    assert len(page) < 5e6 and 'id="table1"' in page and 'id="claims"' in page and page.count("data:image/png") == 9


def test_every_job_left_its_record(project):
    assert len(list((project / "results/tiny/runs").rglob("*.json"))) == 108


def test_second_call_has_nothing_to_do(project):
    used = processor_time()
    done = snakemake(project)
    assert "Nothing to be done" in done.stdout + done.stderr
    assert processor_time() - used < 5


def test_an_evaluation_setting_reruns_evaluations_and_tables(project, tmp_path):
    overlay = tmp_path / "edited.yaml"
    overlay.write_text((project / "tests/tiny.yaml").read_text().replace("prompts: 40", "prompts: 39"))
    counts = jobs(project, config=str(overlay))
    assert counts == {"evaluations": 15, "evaluation_rewards": 15, "tables": 13, "figures": 6, "page": 1}


def edited(project: Path, name: str, old: str, new: str):
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new, 1))
    counts = jobs(project)
    (project / name).write_text(text)
    return counts


@pytest.mark.parametrize(
    ("name", "line"),
    [("mixdpo/method/fit.py", "import math"), ("config.yaml", "run: embedded"), ("config/paper.yaml", "run: paper")],
)
def test_a_comment_reruns_nothing(project, name, line):
    assert edited(project, name, f"{line}\n" if name.endswith(".py") else line, f"{line}  # a comment\n\n") == {}


def test_a_line_of_a_reward_reruns_rewards_and_what_follows(project):
    counts = edited(project, "mixdpo/stages/rewards.py", "batch_size = 32", "batch_size = 31")
    assert counts == {
        "rewards": 2,
        "validity": 1,
        "preferences": 2,
        "reference_log_probs": 2,
        "gates": 1,
        "policies": 13,
        "evaluations": 13,  # those of the reference stay
        "evaluation_rewards": 15,
        "tables": 15,  # perplexity stays
        "figures": 7,
        "page": 1,
    }


def test_a_second_seed_adds_one_policy_a_method(project, tmp_path):
    overlay = tmp_path / "seeds.yaml"
    overlay.write_text((project / "tests/tiny.yaml").read_text() + "seeds: [0, 1]\n")
    assert jobs(project, config=str(overlay)) == {
        "policies": 21,
        "evaluations": 16,
        "evaluation_rewards": 13,
        "judgements": 2,
        "tables": 18,
        "figures": 9,
        "page": 1,
    }


def test_a_missing_artifact_is_made_again(project):
    manifest = project / "results/tiny/reference_log_probs/multi_reward/manifest.json"
    content = manifest.read_bytes()
    manifest.unlink()
    assert jobs(project)["reference_log_probs"] == 1
    manifest.write_bytes(content)


def test_tables_in_git_do_not_stand_in_for_missing_results(project, tmp_path):
    clone = copy_project(tmp_path)
    shutil.copytree(project / "paper_tables", clone / "paper_tables")
    done = snakemake(clone, "--dry-run")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    assert (counts["base"], counts["policies"], counts["tables"], counts["total"]) == ("1", "21", "21", "109")


def test_a_misspelt_key_is_one_line(project, tmp_path):
    overlay = tmp_path / "misspelt.yaml"
    overlay.write_text("sft: {epoch: 1}\n")
    done = snakemake(project, config=str(overlay))
    assert done.returncode != 0
    errors = [line for line in (done.stdout + done.stderr).splitlines() if "epoch" in line]
    assert any("sft: expected a known key" in line and "did you mean epochs?" in line for line in errors)
    assert "Traceback" not in done.stdout + done.stderr


def test_cuda_without_a_gpu_is_one_line_and_finished_work_stays(project, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    target = "results/tiny/policies/multi_reward/dpo/seed0/manifest.json"
    before = (project / target).read_bytes()
    overlay = tmp_path / "cuda.yaml"
    overlay.write_text((project / "tests/tiny.yaml").read_text().replace("threads: 1", "threads: 1, device: cuda"))
    done = snakemake(project, target, "--forcerun", "policies", config=str(overlay))
    assert done.returncode != 0
    assert "error: runtime.device: expected a CUDA device, found none" in done.stdout + done.stderr
    assert snakemake(project, target).returncode == 0
    assert (project / target).read_bytes() == before
    assert jobs(project) == {}


def test_a_flipped_byte_stops_the_consumer_with_one_line(project):
    weights = project / "results/tiny/sft/multi_reward/model/model.safetensors"
    target = "results/tiny/reference_log_probs/multi_reward/manifest.json"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = snakemake(project, target, "--forcerun", "reference_log_probs")
    weights.write_bytes(good)
    assert done.returncode != 0
    assert "sft/multi_reward/model/model.safetensors: does not match its SHA-256" in done.stdout + done.stderr
    assert snakemake(project, target).returncode == 0
    assert jobs(project) == {}


def test_a_failed_rerun_leaves_what_is_finished(project, tmp_path):
    """It runs again as long as it fails; with the old setting its manifest is put back, and nothing follows."""
    folder = project / "results/tiny/policies/multi_reward/dpo/seed0"
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    record = (project / "results/tiny/runs/policies/multi_reward/dpo/seed0.json").read_bytes()
    changed = yaml.safe_load((project / "tests/tiny.yaml").read_text())
    changed["policies"].setdefault("methods", {}).setdefault("dpo", {})["learning_rate"] = 1.0e35
    overlay, target = tmp_path / "diverges.yaml", str((folder / "manifest.json").relative_to(project))
    overlay.write_text(yaml.safe_dump(changed))
    for _ in range(2):
        done = snakemake(project, target, config=str(overlay))
        assert done.returncode != 0 and "error: " in done.stdout + done.stderr
        assert all(p.read_bytes() == before[p][0] for p in before if p.name != "manifest.json")
    assert snakemake(project, target).returncode == 0
    assert all(p.read_bytes() == before[p][0] for p in before)
    assert all(p.stat().st_mtime_ns == before[p][1] for p in before if p.name != "manifest.json")
    assert (project / "results/tiny/runs/policies/multi_reward/dpo/seed0.json").read_bytes() == record
    assert jobs(project) == {}


def test_a_failing_table_keeps_its_printed_files(project):
    printed = {p: p.read_bytes() for p in (project / "paper_tables/tiny").glob("preferences.*")}
    source = project / "results/tiny/preferences/multi_reward/train.parquet"
    good = source.read_bytes()
    source.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    target = "paper_tables/tiny/preferences.manifest.json"
    assert snakemake(project, target, "--forcerun", "tables").returncode != 0
    source.write_bytes(good)
    assert len(printed) == 5
    assert all(p.read_bytes() == content for p, content in printed.items() if p != project / target)
    assert snakemake(project, target).returncode == 0
    assert all(p.read_bytes() == content for p, content in printed.items())
    assert jobs(project) == {}


def test_a_file_in_a_results_folder_is_refused_and_stays(project):
    folder = project / "results/tiny/reference_log_probs/multi_reward"
    (folder / "thesis.tex").write_text("mine")
    (folder / "manifest.json").rename(folder.parent / "aside.json")
    target = str((folder / "manifest.json").relative_to(project))
    done = snakemake(project, target)
    assert done.returncode != 0
    assert "thesis.tex: expected only files that were made here" in done.stdout + done.stderr
    assert (folder / "thesis.tex").read_text() == "mine"
    (folder / "thesis.tex").unlink()
    assert snakemake(project, target).returncode == 0
    assert (folder / "manifest.json").read_bytes() == (folder.parent / "aside.json").read_bytes()
    (folder.parent / "aside.json").rename(folder / "manifest.json")  # of its old time: what follows stays
    assert jobs(project) == {}


def test_report(project):
    done = snakemake(project, "--report", "report.zip")
    assert done.returncode == 0, done.stderr[-2000:]
    names = zipfile.ZipFile(project / "report.zip").namelist()
    assert all(any(part in name for name in names) for part in ("table1", "figure1.png", "index.html"))


def test_killed_at_work_the_run_continues_to_the_same_bytes(project, tmp_path):
    """kill -9 of Snakemake and its job as soon as a stage has resume state; then one call to the scores of DPO's completions.

    No process outlives the kill. The killed jobs are forks of a warm server, but for the first; the last call has none.
    """
    again, scores = copy_project(tmp_path), "results/tiny/evaluations/multi_reward/dpo/seed0/rewards/manifest.json"
    command = ["snakemake", "--cores", "1", scores, "--configfile", "tests/tiny.yaml"]
    for stage, state in ("base", "training.pt"), ("completions", "batch-*.json"), ("policies", "restart0/training.pt"):
        process = subprocess.Popen(
            command,
            cwd=again,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not (found := list(again.glob(f".mixdpo/scratch/{stage}-*/{state}"))):
            assert process.poll() is None, f"the run ended before {stage} left a state"
            time.sleep(0.005)
        assert stage == "base" or len(warm_processes(again)) > 1
        kill_group(process.pid)
        process.wait()
        assert found[0].exists()
        for _ in range(100):
            time.sleep(0.05 * bool(warm_processes(again)))
        assert warm_processes(again) == []
        assert snakemake(again, "--unlock").returncode == 0
    done = snakemake(again, scores, "--no-hooks")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first, second = (
        {p.relative_to(folder): p.read_bytes() for p in folder.glob("results/tiny/**/manifest.json")}
        for folder in (project, again)
    )
    assert len(second) > 10
    assert [path for path in second if first[path] != second[path]] == []


def test_sensitivity(project):
    """After `all`, it trains DPO and Case 1 at two more β; every cell says that one seed judges nothing."""
    expected = {"policies": 4, "evaluations": 4, "evaluation_rewards": 4, "tables": 1}
    assert {name: n for name, n in jobs(project, "sensitivity").items() if name != "sensitivity"} == expected
    done = snakemake(project, "sensitivity")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    cells = pd.read_csv(project / "paper_tables/tiny/sensitivity.csv")
    assert cells["setting"].nunique() == 6 and (cells["verdict"] == "not judged").all()


def kill_group(leader: int) -> None:
    """kill -9 every process of the session that `leader` leads, jobs in their own groups included."""
    table = subprocess.run(["ps", "-eo", "pid=,sess="], capture_output=True, text=True, check=True).stdout
    for line in table.splitlines():
        pid, session = map(int, line.split())
        if session == leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def warm_processes(project: Path) -> list[str]:
    """The server of a run and the jobs that it forked."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"mixdpo.server" in (process / "cmdline").read_bytes() and (process / "cwd").resolve() == project:
                found.append(process.name)
    return found
