"""The command line: what a stage call leaves behind, and faults as one line."""

import json
import shutil
import subprocess
import sys

import pytest

from mixdpo import __main__ as command
from mixdpo.provenance.artifact import verify


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run one stage of a stand-in module in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stand_in.py").write_text(
        "from mixdpo.errors import UserError\n"
        "def sft(out, spec, *, runtime, resume, **inputs):\n"
        "    (out / 'threads').write_text(str(runtime.threads))\n"
        "    if spec['fault'] == 'full':\n"
        "        with open('/dev/full', 'w') as f:\n"
        "            f.write('x')\n"
        "    if spec['fault'] == 'user':\n"
        "        raise UserError('sft.epochs: expected less, found more; type another')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(command.STAGES, "sft", "stand_in")
    sys.modules.pop("stand_in", None)

    def run(fault: str):
        spec = json.dumps({"fault": fault})
        arguments = ["sft", "--out", "results/sft/manifest.json", "--spec", spec, "--code", "c", "--facts", "runs"]
        monkeypatch.setattr(sys, "argv", ["mixdpo", *arguments, "--precision", "fp32"])
        command.main()

    return run


def test_artifact_and_record(tmp_path, call):
    call("none")
    content = verify(tmp_path / "results/sft/manifest.json")
    assert content["spec"] == {"fault": "none"} and list(content["files"]) == ["threads"]
    record = json.loads((tmp_path / "runs/results--sft.json").read_text())
    assert {"started", "seconds", "peak_memory_mib", "device", "precision", "versions", "commit", "dirty"} <= set(
        record
    )
    assert (record["commit"], record["dirty"]) == (None, None)  # outside Git


def test_dirty_is_code_that_is_not_committed(tmp_path, call):
    """Texts and tables in Git are no code; a new module is."""
    git = ("git", "-c", "user.name=author", "-c", "user.email=author@example.org")
    for name in ("README.md", "mixdpo/method/losses.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\n")
    for words in ("init", "--quiet"), ("add", "README.md", "mixdpo"), ("commit", "--quiet", "--message", "code"):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)

    def dirty() -> bool:
        shutil.rmtree(tmp_path / "results", ignore_errors=True)  # or nothing would be done
        call("none")
        return json.loads((tmp_path / "runs/results--sft.json").read_text())["dirty"]

    (tmp_path / "README.md").write_text("another\n")
    assert dirty() is False
    (tmp_path / "mixdpo/new.py").write_text("text\n")
    assert dirty() is True


def test_help_names_every_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mixdpo", "--help"])
    with pytest.raises(SystemExit):
        command.main()
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("explain", "audit", *command.STAGES))


def test_audit_does_not_load_torch():
    """It starts at once; tables that are made again load it."""
    code = "import sys, mixdpo.__main__, mixdpo.run.audit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("full", "error: results/sft/manifest.json: no space left on the disk; free some"),
        ("user", "error: sft.epochs: expected less, found more"),
    ],
)
def test_faults_are_one_line_and_finished_work_stays(tmp_path, call, fault, line):
    call("none")
    before = (tmp_path / "results/sft/manifest.json").read_bytes()
    with pytest.raises(SystemExit) as stop:
        call(fault)
    assert str(stop.value).startswith(line) and "\n" not in str(stop.value)
    assert (tmp_path / "results/sft/manifest.json").read_bytes() == before
