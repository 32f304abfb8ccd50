"""Artifacts appear whole or not at all, and say so when they are damaged."""

import fcntl
import json
import multiprocessing
import os

import pytest

from mixdpo.errors import Corrupt, UserError
from mixdpo.provenance import durable
from mixdpo.provenance.artifact import KEPT, PRIVATE, keep, label, publish, there, verify


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


WORK = {"stage": "s", "spec": {"a": 1}, "code": "c", "inputs": {}}


@pytest.mark.parametrize("before", ["nothing of ours", "ours", "a manifest of someone else"])
@pytest.mark.parametrize("name", ["thesis.tex", "deep/thesis.tex", "link"])
def test_a_file_that_was_not_made_here_is_neither_removed_nor_overwritten(tmp_path, before, name):
    manifest, mine = tmp_path / "a/manifest.json", tmp_path / "a" / name
    if before == "ours":
        make(manifest)
    mine.parent.mkdir(parents=True, exist_ok=True)
    if name == "link":
        (tmp_path / "elsewhere").mkdir()
        mine.symlink_to(tmp_path / "elsewhere")
    else:
        mine.write_text("mine")
    if before == "a manifest of someone else":
        manifest.write_text('{"name": "a web page"}')
    there_before = sorted(p.relative_to(tmp_path) for p in (tmp_path / "a").rglob("*"))
    with pytest.raises(Corrupt, match=r"a/.*: expected only files that were made here.*; move it away") as error:
        make(manifest, "2")
    assert "\n" not in str(error.value)
    assert sorted(p.relative_to(tmp_path) for p in (tmp_path / "a").rglob("*")) == there_before


def test_a_file_that_comes_while_the_stage_works_stays(tmp_path):
    manifest = make(tmp_path / "a/manifest.json")
    with pytest.raises(Corrupt, match=r"a/mine: expected"), publish(manifest, **WORK) as (staging, _):
        (staging / "payload").write_text("2")
        (tmp_path / "a/mine").touch()
    assert (tmp_path / "a/mine").exists() and (tmp_path / "a/deep/payload").read_text() == "1"


def test_a_file_in_the_place_of_a_folder_stays(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(Corrupt, match="expected a folder, found a file"):
        make(tmp_path / "a/manifest.json")
    assert (tmp_path / "a").read_text() == "mine"


def test_empty_folders_and_links_into_a_model_are_no_obstacle(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("w")
    (tmp_path / "a/b").mkdir(parents=True)
    for _ in range(2):
        with publish(tmp_path / "a/manifest.json", **WORK) as (staging, _resume):
            (staging / "model").symlink_to(tmp_path / "model")
        (tmp_path / "model/more").touch()
    assert (tmp_path / "model/weights").read_text() == "w"


def test_a_named_artifact_overwrites_its_own_files_only(tmp_path):
    def named(text):
        with publish(tmp_path / "t/table.manifest.json", **WORK) as (staging, _):
            (staging / "table.csv").write_text(text)

    (tmp_path / "t").mkdir()
    (tmp_path / "t/table.csv").write_text("mine")
    with pytest.raises(Corrupt, match=r"t/table\.csv: expected only files"):
        named("1")
    assert (tmp_path / "t/table.csv").read_text() == "mine"
    (tmp_path / "t/table.csv").unlink()
    named("1")
    named("2")
    assert (tmp_path / "t/table.csv").read_text() == "2" and not any(KEPT.iterdir())


@pytest.mark.parametrize("name", ["manifest.json", "table.manifest.json"])
@pytest.mark.parametrize("manifest_left", [True, False])
def test_killed_between_renames_the_next_call_goes_through(tmp_path, monkeypatch, name, manifest_left):
    """A process that ends in the first rename of a file or folder to its place, as far as the disk can tell."""
    manifest = tmp_path / "a" / name

    def table(text, files):
        with publish(manifest, **WORK) as (staging, _):
            for file in files:
                (staging / file).write_text(text)

    def killed(text, files):
        replace = durable.replace

        def end(staged, final):
            if staged.is_dir() or final == manifest:  # the old folder is away, or all files but the manifest are new
                os._exit(9)
            replace(staged, final)

        monkeypatch.setattr(durable, "replace", end)
        table(text, files)

    table("1", ["table.csv"])
    if not manifest_left:
        manifest.unlink()
        (tmp_path / "a/table.csv").unlink()
    child = multiprocessing.get_context("fork").Process(target=killed, args=("2", ["table.csv", "table.tex"]))
    child.start()
    child.join()
    assert child.exitcode == 9
    table("3", ["table.csv"])
    assert (tmp_path / "a/table.csv").read_text() == "3"


def test_what_snakemake_deletes_comes_back(tmp_path):
    """It deletes the manifest before a rerun and after a failure: the copy tells what is ours, and what is done."""
    manifest, source = tmp_path / "a/manifest.json", make(tmp_path / "b/manifest.json")
    work = WORK | {"inputs": {"b": source}}
    assert not there(manifest, **work)
    with publish(manifest, **work) as (staging, _):
        (staging / "payload").write_text("1")
    before = manifest.read_bytes()
    keep([manifest, tmp_path / "none/manifest.json"])
    manifest.unlink()
    with pytest.raises(ZeroDivisionError), publish(manifest, **work | {"spec": {"a": 2}}):
        raise ZeroDivisionError
    assert not there(manifest, **work | {"spec": {"a": 2}}) and not manifest.exists()
    assert there(manifest, **work) and manifest.read_bytes() == before
    verify(manifest)
    (tmp_path / "a/payload").write_text("2")
    manifest.unlink()
    assert not there(manifest, **work) and not manifest.exists()
    (tmp_path / "b/deep/payload").write_text("2")
    with pytest.raises(Corrupt, match="b/deep/payload: does not match"):
        there(manifest, **work)


@pytest.mark.parametrize(("name", "files"), [("manifest.json", ""), ("table.manifest.json", "/table.*")])
def test_the_remedy_of_a_damaged_artifact_works(tmp_path, name, files):
    manifest = tmp_path / "a" / name
    for text in "1", "2":
        with publish(manifest, **WORK) as (staging, _):
            (staging / "table.csv").write_text(text)
        verify(manifest)
        (tmp_path / "a/table.csv").write_text("x")
        with pytest.raises(Corrupt) as error:
            verify(manifest)
        assert str(error.value).endswith(f"; delete {tmp_path}/a{files} and run again")
        for file in (tmp_path / "a").iterdir():
            file.unlink()
