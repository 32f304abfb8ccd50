"""Training on preferences of one's own: resume, inputs in memory, the table, and the package itself."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, copy_project
from datasets import Dataset
from library import DPO, HOW, SMALL, contents, rows, typed, written
from transformers import AutoModelForCausalLM, AutoTokenizer

import mixdpo
from mixdpo import Experts, Gate, Method, train
from mixdpo import __main__ as command
from mixdpo.errors import Corrupt, UserError
from mixdpo.library import training
from mixdpo.library.experts import expert_table
from mixdpo.provenance import durable

# Training


def test_killed_it_continues_to_the_same_bytes_and_done_it_does_nothing(folder, model_folder):
    written(folder / "my.jsonl", rows(prompts=12))
    method = Method(Experts(heads=2), optimiser=replace(SMALL, epochs=20))
    how = {"preferences": "my.jsonl", "model": model_folder, "method": method, **HOW}
    child = multiprocessing.get_context("fork").Process(target=train, kwargs=how | {"out": "killed"})
    child.start()
    deadline = time.monotonic() + 60
    while not (saved := list(folder.glob("killed/.mixdpo/scratch/policies-*/restart0/training.pt"))):
        assert time.monotonic() < deadline and child.is_alive()
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert torch.load(saved[0])["step"] >= 1 and not Path("killed/policy").exists()
    train(**how, out="killed")
    assert not saved[0].exists()
    train(**how, out="whole")
    assert len(contents(Path("whole"))) > 15 and contents(Path("killed")) == contents(Path("whole"))

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    again = train(**how, out=folder / "whole")
    assert again.folder == folder / "whole/policy/model" and not again.new
    assert "everything is there, nothing was done" in again.report
    changed = {p for p in folder.rglob("*") if p.is_file() and p.stat().st_mtime_ns != before.get(p)}
    assert not changed and Path.cwd() == folder

    Path("whole/policy/curve.csv").write_text("x")
    with pytest.raises(
        Corrupt, match=r"^whole/policy/curve\.csv: does not match its SHA-256 in whole/policy/manifest\.json; delete"
    ):
        train(**how, out="whole")


def test_a_table_a_dataset_and_a_loaded_model_give_the_bytes_of_files(folder, model_folder, capsys):
    file = written(folder / "my.jsonl", rows(user=("anna", "ben")))
    frame, method = pd.DataFrame(rows(user=("anna", "ben"))), Method(Experts(heads=2), Gate("user"), optimiser=SMALL)
    loaded = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    train(file, model_folder, method, out="file", **HOW)
    cases = {"frame": (frame, model_folder), "dataset": (Dataset.from_pandas(frame), loaded), "model": (file, loaded)}
    for out, (preferences, model) in cases.items():
        made = train(preferences, model, method, out=out, **HOW)
        assert made.new and not train(preferences, model, method, out=out, **HOW).new
        assert contents(Path(out, "policy/model")) == contents(Path("file/policy/model"))
        assert contents(Path(out, "preferences")).keys() == contents(Path("file/preferences")).keys()
        pd.testing.assert_frame_equal(made.table, pd.read_csv("file/experts.csv"))
        spec = json.loads(Path(out, "reference/manifest.json").read_text())["spec"]
        assert spec["source"] == ("local" if model is model_folder else "memory")
    assert contents(Path("frame/given")) == contents(Path("dataset/given"))
    assert not Path("model/given").exists() and not capsys.readouterr().out
    other = train(frame[2:], model_folder, method, out="frame", **HOW)
    assert other.new and len(pd.read_parquet("frame/given/preferences.parquet")) == len(frame) - 2


def test_killed_between_the_files_of_the_table_it_continues(folder, model_folder, monkeypatch):
    """Of a run with other settings the new csv is there, beside the old text and manifest."""
    frame, other = pd.DataFrame(rows()), replace(DPO, beta=0.5)
    train(frame, model_folder, DPO, out="mine", **HOW)
    replaced = durable.replace

    def killed(staged, final):
        replaced(staged, final)
        if final.name == "experts.csv":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(durable, "replace", killed)
        train(frame, model_folder, other, out="mine", **HOW)
    train(frame, model_folder, other, out="mine", **HOW)
    train(frame, model_folder, other, out="whole", **HOW)
    assert contents(Path("mine")) == contents(Path("whole"))
    assert not train(frame, model_folder, other, out="mine", **HOW).new


def test_a_folder_can_move_with_its_preferences_and_model(folder, model_folder):
    """Paths in manifests are relative: nothing is done again."""
    Path("a").mkdir()
    loaded = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    written(folder / "a/my.jsonl", rows())
    train("a/my.jsonl", loaded, DPO, out="a/mine", **HOW)
    Path("a").rename("b")
    assert not train("b/my.jsonl", loaded, DPO, out="b/mine", **HOW).new
    assert str(folder) not in Path("b/mine/policy/manifest.json").read_text()


def test_users_adapters_and_tensorboard(folder, model_folder, monkeypatch, capsys):
    """One training with all three; its curve is read back; text for users it knows, and for nobody else."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written(folder / "my.jsonl", rows(user=("anna", "ben"), style=("brief", "detailed")))
    typed(
        f"mixdpo train --preferences my.jsonl --model {model_folder} --experts 2 --architecture adapters --epochs 2 "
        "--batch-size 4 --set optimiser.accumulate=2 --set optimiser.schedule=cosine "
        "--set optimiser.gate_learning_rate=1e-2 --tensorboard curves --precision bf16 --out mine",
        monkeypatch,
    )
    spec = json.loads(Path("mine/policy/manifest.json").read_text())["spec"]
    assert spec["optimiser"]["gate_learning_rate"] == 0.01 and spec["optimiser"]["accumulate"] == 2
    assert spec["posterior"]["unit"] == "user" and spec["experts"]["perturbation"] == 0.02
    shape = json.loads(Path("mine/policy/model/policy.json").read_text())
    assert shape["adapters"] == ["expert0", "expert1"] and shape["users"] == ["anna", "ben"]
    curve = pd.read_csv("mine/policy/curve.csv")
    events = EventAccumulator("curves").Reload()
    assert {"loss", "nll", "w0", "q0/brief", "q1/detailed", "rate"} <= set(events.Tags()["scalars"])
    steps, losses = zip(*((e.step, e.value) for e in events.Scalars("loss")))
    assert steps == (0, 0, 0, 0, 1, 2, 3)  # each of four starts for a quarter of the steps, then the best goes on
    np.testing.assert_allclose(losses[4:], curve["loss"][1:], rtol=1e-6)
    assert np.isclose(losses[:4], curve["loss"][0], rtol=1e-6).any()
    card = Path("mine/policy/model/README.md").read_text()
    assert "- by user: anna " in card and "users=['anna']" in card
    capsys.readouterr()
    typed("mixdpo generate --policy mine --prompt 'Dish 1' --user anna --n 2 --max-new-tokens 4", monkeypatch)
    assert capsys.readouterr().out.strip()


def test_adapters_are_the_same_bytes_in_processes_that_hash_otherwise(folder, model_folder):
    written(folder / "my.jsonl", rows())
    call = ["train", "--preferences", "my.jsonl", "--model", str(model_folder), "--architecture", "adapters"]
    call += ["--experts", "2", "--epochs", "1", "--batch-size", "4", "--threads", "1", "--device", "cpu"]
    manifests = []
    for seed in "1", "2":
        command_line = [sys.executable, "-m", "mixdpo", *call, "--out", f"with{seed}"]
        subprocess.run(command_line, env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}, check=True)
        manifests.append(json.loads(Path(f"with{seed}/policy/manifest.json").read_text()))
    assert manifests[0] == manifests[1]
    assert "model/adapters/expert0/adapter_config.json" in manifests[0]["files"]


def test_without_tensorboard_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"found none; type pip install 'mixdpo\[tensorboard\]'"), training.events("c"):
        pass


# The table


def test_the_table_by_hand():
    """Two triplets of one style, three of the other; a mixture that is right where its heavy expert is."""
    found = pd.DataFrame(
        {
            "style": ["a", "a", "b", "b", "b"],
            "user": list("uvuvu"),
            "q0": [0.8, 0.6, 0.1, 0.2, 0.3],
            "margin0": [1.0, -1.0, -1.0, -1.0, 1.0],
            "margin1": [-1.0, -3.0, 2.0, 2.0, 0.0],
        }
    )
    found["q1"] = 1 - found["q0"]
    weights = np.array([[0.9, 0.1], [0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
    table = expert_table(found, weights).set_index(["style", "column"])
    mean, n = table["mean"], table["n"]
    assert n["a", "q0"] == 2 and n["b", "accuracy1"] == 3
    assert (mean["a", "q0"], mean["b", "q1"]) == (pytest.approx(0.7), pytest.approx(0.8))
    assert table.loc[("a", "q0"), "se"] == pytest.approx(0.1)
    assert (mean["a", "accuracy0"], mean["a", "accuracy1"]) == (0.5, 0)
    assert (mean["b", "accuracy0"], mean["b", "accuracy1"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert mean["a", "accuracy of the mixture"] == 0.5
    assert mean["b", "accuracy of the mixture"] == pytest.approx(2 / 3)
    assert set(expert_table(found.drop(columns="style"), weights)["user"]) == {"u", "v"}
    alone = expert_table(found.drop(columns=["style", "user"]), weights)
    assert set(alone["preferences"]) == {"all"} and alone.loc[0, "mean"] == pytest.approx(0.4)


# The package


def seconds(*command: str) -> float:
    """Processor time of a command, the smallest of three runs."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    call = [sys.executable, "-c", code, sys.executable, *command]
    how = {"cwd": ROOT, "text": True}
    return min(float(subprocess.check_output(call, **how)) for _ in range(3))


def test_importing_and_asking_for_help_are_quick():
    assert seconds("-c", "import mixdpo") < 0.3
    assert seconds("-m", "mixdpo", "--help") < 0.5


def test_the_public_names():
    assert all(getattr(mixdpo, name) is not None for name in [*mixdpo.__all__, "__version__"])
    assert mixdpo.train is training.train and set(mixdpo.__all__) < set(dir(mixdpo))
    with pytest.raises(AttributeError, match="module mixdpo has no attribute trian"):
        _ = mixdpo.trian


def test_a_missing_package_of_the_workflow_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mixdpo.run.audit", None)

    def missing(arguments):
        raise ModuleNotFoundError("No module named 'rocrate'", name="rocrate.model")

    monkeypatch.setattr(command, "audit_run", missing)
    with pytest.raises(SystemExit, match=r"^error: rocrate.model: expected .* type pip install 'mixdpo\[workflow\]'"):
        typed("mixdpo audit", monkeypatch)


@pytest.mark.slow
def test_the_wheel_trains_and_generates_from_any_folder(folder, model_folder):
    """Built and installed without downloads, in an environment that sees the packages of this one but not the project."""
    source = copy_project(folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "wheels", source], check=True)
    (wheel,) = Path("wheels").glob("mixdpo-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "fresh"], check=True)
    (site,) = Path("fresh").glob("lib/python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    packages = Path(torch.__file__).parent.parent
    (site / "packages.pth").write_text(f"{packages}\n")
    shutil.rmtree(source)
    Path("empty").mkdir()
    preferences = written(folder / "my.jsonl", rows(user=("anna", "ben")))
    python = folder / "fresh/bin/python"
    mixdpo_line = [python, folder / "fresh/lib" / site.parts[2] / "site-packages/bin/mixdpo"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(*words) -> str:
        line = [*mixdpo_line, *map(str, words)]
        return subprocess.run(line, cwd="empty", env=environment, check=True, capture_output=True, text=True).stdout

    how = ("--threads", 1, "--device", "cpu")
    where = call("train", "--preferences", preferences, "--model", model_folder, "--epochs", 1, "--out", "mine", *how)
    assert "policy: mine/policy/model" in where
    assert call("generate", "--policy", "mine", "--prompt", "Dish 1", "--user", "anna", *how)
    assert call("export", "--policy", "mine", "--out", "models").split() == [f"models/expert{k}" for k in range(4)]
    code = "import mixdpo; from pathlib import Path; print(Path(mixdpo.__file__).parent, *mixdpo.__all__)"
    found = subprocess.check_output([python, "-c", code], cwd="empty", env=environment, text=True)
    assert found.startswith(str(folder / "fresh"))
    files = {path.name for path in (site / "mixdpo/run").iterdir()}
    assert "config.schema.json" in files
