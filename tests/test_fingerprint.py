"""The fingerprint of a stage follows its code and nothing else."""

import shutil

import pytest

from mixdpo.provenance import fingerprint as module
from mixdpo.provenance.fingerprint import fingerprint
from mixdpo.run.stages import STAGES


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that the fingerprint looks at."""
    copy = tmp_path / "mixdpo"
    shutil.copytree(module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", copy)
    forget()
    yield copy
    forget()


def forget():
    for function in module.fingerprint, module._tree, module._dump, module._imports:
        function.cache_clear()


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    forget()


def test_comment_and_docstring_change_nothing(package):
    before = fingerprint("mixdpo.stages.policies")
    edit(package / "method/losses.py", "import torch\n", "import torch  # a remark\n\n")
    edit(package / "method/losses.py", '"""The mixture', '"""Another word on the mixture')
    assert fingerprint("mixdpo.stages.policies") == before


def test_transitive_edit_changes_only_its_users(package):
    before = {stage: fingerprint(name) for stage, name in STAGES.items()}
    edit(package / "method/losses.py", "r[..., 0] - r[..., 1]", "r[..., 1] - r[..., 0]")
    changed = {stage for stage, name in STAGES.items() if fingerprint(name) != before[stage]}
    assert changed == {"policies"}


def test_reward_edit_changes_rewards_and_validity(package):
    before = {stage: fingerprint(name) for stage, name in STAGES.items()}
    edit(package / "stages/rewards.py", "BARELY_BEGUN = 5", "BARELY_BEGUN = 6")
    changed = {stage for stage, name in STAGES.items() if fingerprint(name) != before[stage]}
    assert changed == {"rewards", "validity"}


def test_every_stage_has_a_function_of_its_name():
    for stage, name in STAGES.items():
        assert f"\ndef {stage}(" in module._locate(name).read_text(), stage
