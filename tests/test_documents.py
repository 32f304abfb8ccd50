"""What README.md and docs/extending.md say runs as written."""

import json
import re
import runpy
from pathlib import Path

import pandas as pd
import yaml
from conftest import ROOT
from library import blocks, contents, ran, rows, typed
from transformers import AutoModelForCausalLM, AutoTokenizer

import mixdpo
from mixdpo.fields import merged
from mixdpo.run import checks
from mixdpo.run.config import published
from mixdpo.run.config import spec as config_slice
from mixdpo.run.graph import table_inputs
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped
from mixdpo.stages import judges, rewards
from mixdpo.stages.assets.feedback import feedback


def test_the_worked_example_runs_as_written(folder, model_folder, monkeypatch, capsys):
    monkeypatch.setenv("MODEL", str(model_folder))
    text = (ROOT / "docs/extending.md").read_text().partition("## A dataset")[0]
    (write, memory, read), (shown,), (training_line, generating) = (
        blocks(text, k) for k in ("python", "jsonl", "bash")
    )
    ran(write)
    assert Path("my.jsonl").read_text().startswith(shown)
    assert len(Path("my.jsonl").read_text().splitlines()) == 40
    typed(training_line, monkeypatch)
    printed = capsys.readouterr().out
    assert "my.jsonl: 36 triplets for training, 4 for validation" in printed
    table = Path("mine/experts.md").read_text()
    assert table in printed and "policy: mine/policy/model" in printed and Path("mine/policy/model/README.md").is_file()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert cells[0] == ["style", "n", "q0", "q1", "accuracy0", "accuracy1", "accuracy of the mixture"]
    assert "| " + " | ".join(cells[0]) + " |" in text
    assert [row[:2] for row in cells[2:]] == [["brief", "2"], ["detailed", "2"]]
    for line in generating.splitlines():
        typed(line, monkeypatch)
        assert capsys.readouterr().out.strip()
    assert (folder / "expert0/config.json").is_file()
    ran(memory)
    assert contents(Path("mine/policy/model")) == contents(Path("same/policy/model"))
    capsys.readouterr()
    ran(read)
    assert capsys.readouterr().out.startswith("[")


def test_the_five_lines_of_the_readme(folder, model_folder, capsys):
    (code,) = (block for block in blocks((ROOT / "README.md").read_text(), "python") if "from mixdpo import" in block)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) <= 5 and lines == [line.strip() for line in mixdpo.__doc__.split("\n")[2:5]]
    model = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    preferences = pd.DataFrame(rows(prompts=3, user=("ann", "ben")))
    policy = ran(code, preferences=preferences, model=model)["policy"]
    assert policy.folder == Path("mine/policy/model") and policy.policy.experts == 4
    assert len(policy.table) == 2 * 9  # q and accuracy of four experts, and the mixture's, for two users
    assert not capsys.readouterr().out


def configured(overlay: dict) -> dict:
    """The default run with what an overlay changes, checked as a run is."""
    config = completed(merged(shipped(ROOT), overlay))
    checks.validate(config)
    return config


def test_what_the_document_adds_works(monkeypatch, tmp_path):
    """Its judge, its reward, and the keys of its methods."""
    text = (ROOT / "docs/extending.md").read_text()
    for module, registry, word in (judges, "JUDGES", "@judge"), (rewards, "REWARDS", "@reward"):
        monkeypatch.setattr(module, registry, {})
        (code,) = (block for block in blocks(text, "python") if word in block)
        (tmp_path / "block.py").write_text(code)
        runpy.run_path(str(tmp_path / "block.py"), vars(module) | {"__name__": "block"})
    pair = judges.Comparison("?", "helpfulness", "short", "longer")
    assert judges.JUDGES["longer"]({})([pair])[0].choice == "second"
    assert rewards.REWARDS["length"](["two words"], None).tolist() == [2]
    section = text.partition("## A method")[2].partition("## A table row")[0]
    changes = [yaml.safe_load(words) for words in re.findall(r"`(\{.*?\}|\w+: .*?)`[,:| ]", section)]
    assert len(changes) == 9
    gated = {"experts": {"heads": 3}, "weights": {"kind": "gate"}}
    configured({"policies": {"methods": {f"method{n}": gated | change for n, change in enumerate(changes)}}})


def test_the_documents_method_row_and_claim_bring_their_jobs(monkeypatch):
    text = (ROOT / "docs/extending.md").read_text()
    method, (row,), (claim,) = (yaml.safe_load(block) for block in blocks(text.partition("## A method")[2], "yaml"))
    config = configured(method)
    tables = published(ROOT / "mixdpo/paper/published", config)
    tables["table1"]["rows"].append(row)
    tables["claims"]["rows"].append(claim)
    checks.check_tables(config, tables)
    made = "results/embedded/policies/multi_reward/hybrid/seed0/manifest.json"
    for name in "table1", "claims":
        assert made in table_inputs(config, tables, name).values()


def test_the_documents_overlay_for_reviews(folder):
    overlay = yaml.safe_load(next(b for b in blocks((ROOT / "docs/extending.md").read_text(), "yaml") if "recipe" in b))
    Path("my").mkdir()
    Path("my/reviews.parquet").touch()
    config = configured(overlay)
    checks.check_tables(config, published(ROOT / "mixdpo/paper/published", config))


def test_the_documents_rated_responses_and_their_overlay(folder, runtime):
    section = (ROOT / "docs/extending.md").read_text().partition("Rated responses,")[2].partition("## A reward")[0]
    for file in "my/rated.jsonl", "my/llama/config.json", "my/reward_model/config.json":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    (row,) = blocks(section, "json")
    Path("my/rated.jsonl").write_text(json.dumps(json.loads(row)))
    config = configured(yaml.safe_load(blocks(section, "yaml")[0]))
    checks.check_tables(config, published(ROOT / "mixdpo/paper/published", config))
    first, second = map(yaml.safe_load, blocks(section, "yaml"))
    two = configured(merged(first, second))
    tables = published(ROOT / "mixdpo/paper/published", two)
    checks.check_tables(two, tables)
    assert "judge_validity" in tables and config_slice(two, "feedback")["aspects"] == ["brevity", "courtesy"]
    spec = config_slice(config, "feedback") | {"test_share": 0}
    feedback(folder, spec, runtime=runtime, resume=folder, file=Path("my/rated.jsonl"))
    frame = pd.read_parquet("feedback.parquet")
    assert frame["helpfulness"].tolist() == [4, 2] and frame["instruction_following"].tolist() == [5, 1]
