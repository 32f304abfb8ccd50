"""Artifacts appear whole or not at all, and say so when they are damaged."""

import fcntl
import json

import pytest

from mixdpo.errors import Corrupt, UserError
from mixdpo.provenance.artifact import PRIVATE, label, publish, verify


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(path, text="1", **inputs):
    with publish(path, stage="s", spec={"a": 1}, code="c", inputs=inputs) as (staging, _):
        (staging / "deep").mkdir()
        (staging / "deep" / "payload").write_text(text)
    return path


def test_folder_artifact(tmp_path):
    manifest = make(tmp_path / "results/a/manifest.json")
    content = verify(manifest)
    assert set(content) == {"stage", "spec", "code", "inputs", "files"}
    assert list(content["files"]) == ["deep/payload"]


def test_same_work_gives_the_same_manifest(tmp_path):
    first = make(tmp_path / "a/manifest.json").read_bytes()
    assert make(tmp_path / "a/manifest.json").read_bytes() == first


def test_named_artifacts_share_a_folder(tmp_path):
    for name in ("table1", "table2"):
        with publish(tmp_path / f"{name}.manifest.json", stage="s", spec={}, code="c", inputs={}) as (staging, _):
            (staging / f"{name}.csv").write_text(name)
    assert (tmp_path / "table1.csv").read_text() == "table1"
    assert verify(tmp_path / "table2.manifest.json")["files"].keys() == {"table2.csv"}


def test_failure_leaves_the_finished_artifact(tmp_path):
    manifest = make(tmp_path / "a/manifest.json")
    before = manifest.read_bytes()
    with pytest.raises(ZeroDivisionError), publish(manifest, stage="s", spec={}, code="c", inputs={}) as (staging, _):
        (staging / "half").write_text("x")
        raise ZeroDivisionError
    assert manifest.read_bytes() == before
    assert not any((PRIVATE / "staging").iterdir())
    verify(manifest)


@pytest.mark.parametrize("damage", ["flip", "delete", "add", "manifest"])
def test_damage_is_named(tmp_path, damage):
    manifest = make(tmp_path / "a/manifest.json")
    payload = tmp_path / "a/deep/payload"
    match damage:
        case "flip":
            payload.write_text("2")
        case "delete":
            payload.unlink()
        case "add":
            (tmp_path / "a/extra").touch()
        case "manifest":
            manifest.write_text("{")
    culprit = {"add": "extra", "manifest": "manifest.json"}.get(damage, "payload")
    with pytest.raises(Corrupt, match=culprit) as error:
        make(tmp_path / "b/manifest.json", upstream=manifest)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "b").exists()


def test_inputs_form_a_chain(tmp_path):
    first = make(tmp_path / "a/manifest.json")
    second = make(tmp_path / "b/manifest.json", upstream=first)
    before = json.loads(second.read_text())["inputs"]
    make(first, "2")
    make(second, upstream=first)
    assert json.loads(second.read_text())["inputs"] != before


def test_second_writer_is_refused(tmp_path):
    manifest = tmp_path / "a/manifest.json"
    (PRIVATE / "locks").mkdir(parents=True)
    with open(PRIVATE / "locks" / label(manifest), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            make(manifest)
