"""Preferences of one's own: the worked example of docs/extending.md, faults of the file, resume, table, generation."""

import json
import multiprocessing
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT
from transformers import CohereConfig, CohereForCausalLM

from mixdpo import __main__ as command
from mixdpo import api as own
from mixdpo.api import (
    expert_table,
    generate,
    method_of,
    model_source,
    own_preferences,
    read_triplets,
    train,
)
from mixdpo.errors import Corrupt, UserError
from mixdpo.fields import merged
from mixdpo.method.settings import Experts, Gate, Method, Phase, Weights
from mixdpo.run import checks
from mixdpo.run.config import published
from mixdpo.run.config import spec as config_slice
from mixdpo.run.graph import table_inputs
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped
from mixdpo.stages import judges, rewards
from mixdpo.stages.assets.feedback import feedback
from mixdpo.stages.preferences import validation_prompts

HOW = {"device": "cpu", "precision": "fp32", "threads": 1}
SMALL = {"epochs": 2, "batch_size": 4, **HOW}
PAIR = " was fine.", " was warm, and I would eat it again."


def rows(prompts: int = 8, **labels) -> list[dict]:
    """Two triplets a prompt, one each way round; `labels` are pairs of values, one for each way."""
    return [
        {"prompt": f"Dish {i}", "chosen": PAIR[way], "rejected": PAIR[1 - way]} | {k: v[way] for k, v in labels.items()}
        for i in range(prompts)
        for way in (0, 1)
    ]


def written(path: Path, triplets: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in triplets))
    return path


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def typed(line: str, monkeypatch) -> None:
    """Run a line of a shell that calls `python -m mixdpo`."""
    words = shlex.split(os.path.expandvars(line))
    assert words[:3] == ["python", "-m", "mixdpo"]
    monkeypatch.setattr(sys, "argv", words[2:])
    command.main()


def ran(code: str) -> None:
    Path("block.py").write_text(code)
    runpy.run_path("block.py")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder, on a machine of one core: other tests compute on one thread too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    return tmp_path


def test_the_worked_example_runs_as_written(folder, model_folder, monkeypatch, capsys):
    monkeypatch.setenv("MODEL", str(model_folder))
    text = (ROOT / "docs/extending.md").read_text()
    write, read = (block for block in blocks(text, "python") if "my.jsonl" in block or "mine/policy" in block)
    (shown,), (training, generating) = blocks(text, "jsonl"), blocks(text, "bash")
    ran(write)
    assert Path("my.jsonl").read_text().startswith(shown)
    assert len(Path("my.jsonl").read_text().splitlines()) == 40
    typed(training, monkeypatch)
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
    ran(read)
    assert capsys.readouterr().out.startswith("[")


def test_the_five_lines_of_the_readme(folder, model_folder, capsys):
    (code,) = (block for block in blocks((ROOT / "README.md").read_text(), "python") if "mixdpo.api" in block)
    assert len(code.splitlines()) == 5
    written(folder / "my.jsonl", rows())
    ran(code.replace("PATH", str(model_folder)))
    assert json.loads(Path("mine/policy/model/policy.json").read_text())["shared_heads"] == 4
    assert len(pd.read_csv("mine/experts.csv")) == 9  # q and accuracy of four experts, and the mixture's


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
    methods = [yaml.safe_load(words) for words in re.findall(r"`(\{.*?\}|\w+: .*?)`[,:| ]", section)]
    assert len(methods) == 9
    for method in [*methods, yaml.safe_load(blocks(section, "yaml")[0])["policies"]["methods"]["hybrid"]]:
        assert Method.of({"experts": {"heads": 2}, "weights": {"kind": "gate"}} | method)


def overlaid(overlay: dict) -> dict:
    """The default configuration with an overlay, completed."""
    return completed(merged(shipped(ROOT), overlay))


def test_the_documents_method_row_and_claim_bring_their_jobs():
    text = (ROOT / "docs/extending.md").read_text()
    method, (row,), (claim,) = (yaml.safe_load(block) for block in blocks(text.partition("## A method")[2], "yaml"))
    changed = overlaid(method)
    tables = published(ROOT / "mixdpo/paper/published", changed)
    tables["table1"]["rows"].append(row)
    tables["claims"]["rows"].append(claim)
    checks.validate(changed)
    checks.check_tables(changed, tables)
    made = "results/embedded/policies/multi_reward/hybrid/seed0/manifest.json"
    for name in "table1", "claims":
        assert made in table_inputs(changed, tables, name).values()


def test_the_documents_overlay_for_reviews(folder):
    overlay = yaml.safe_load(next(b for b in blocks((ROOT / "docs/extending.md").read_text(), "yaml") if "recipe" in b))
    Path("my").mkdir()
    Path("my/reviews.parquet").touch()
    changed = overlaid(overlay)
    checks.validate(changed)
    checks.check_tables(changed, published(ROOT / "mixdpo/paper/published", changed))


def test_the_documents_rated_responses_and_their_overlay(folder, runtime):
    section = (ROOT / "docs/extending.md").read_text().partition("Rated responses,")[2].partition("## A reward")[0]
    for file in "my/rated.jsonl", "my/llama/config.json", "my/reward_model/config.json":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    (row,) = blocks(section, "json")
    Path("my/rated.jsonl").write_text(json.dumps(json.loads(row)))
    overlay = yaml.safe_load(blocks(section, "yaml")[0])
    changed = overlaid(overlay)
    checks.validate(changed)
    checks.check_tables(changed, published(ROOT / "mixdpo/paper/published", changed))
    spec = config_slice(changed, "feedback") | {"test_share": 0}
    feedback(folder, spec, runtime=runtime, resume=folder, file=Path("my/rated.jsonl"))
    frame = pd.read_parquet("feedback.parquet")
    assert frame["helpfulness"].tolist() == [4, 2] and frame["instruction_following"].tolist() == [5, 1]


# The file


def test_three_formats_and_aliases(tmp_path):
    triplets = rows(objective=("brief", "detailed"), user=(1, 2))
    frame = pd.DataFrame(triplets)
    frame.to_parquet(tmp_path / "my.parquet")
    frame.to_csv(tmp_path / "my.csv", index=False)
    written(tmp_path / "my.jsonl", triplets)
    found = [read_triplets(tmp_path / f"my.{kind}") for kind in ("parquet", "csv", "jsonl")]
    assert list(found[0]) == ["prompt", "chosen", "rejected", "style", "user"]
    assert found[0]["user"].tolist()[:2] == ["1", "2"] and found[0]["style"].tolist()[:2] == ["brief", "detailed"]
    for other in found[1:]:
        assert other.to_dict("list") == found[0].to_dict("list")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("my.jsonl", '{"prompt": "a", "chosen": "b"}\n', "found prompt, chosen; add rejected or rename"),
        ("my.jsonl", "", "expected preferences, found none"),
        ("my.csv", "", "expected preferences, found none"),
        ("my.csv", "prompt,chosen,rejected\na,b,c\nMy soup, was fine, was bad,\n", "expected 3 fields in row 2, as the header names, found 4 ('My soup, was fine, was bad,')"),
        ("my.csv", "prompt,chosen,rejected\na,b,c\n\nMy soup, was\n", "expected 3 fields in row 2, as the header names, found 2"),
        ("my.csv", 'prompt,chosen,rejected\na,"b,c\n', "expected csv, found: unexpected end of data"),
        ("my.csv", "prompt,chosen,chosen,rejected\na,b,c,d\n", "expected columns that differ, found chosen twice"),
        ("my.parquet", "text", "expected parquet, found: "),
        ("my.jsonl", '{"prompt": "a", "chosen": "b", "rejected": 3}\n', "expected text as rejected, found int in row 1"),
        ("my.jsonl", '{"prompt": "", "chosen": "b", "rejected": "c"}\n', "text as prompt, found an empty one in row 1"),
        ("my.jsonl", '{"prompt": "a"}\n{"prompt"\n', "expected a JSON object in line 2"),
        ("my.csv", "prompt,chosen,rejected,style,objective\na,b,c,d,e\n", "expected a column style or objective, found both"),
        ("my.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c", "user": null}\n', "a user in every row, found none in row 1"),
        ("my.csv", "prompt,chosen,rejected,user\na,b,c,anna\na,b,c,\n", "a user in every row, found none in row 2"),
        ("my.parquet", "PAR1 is how it begins and ends, but no more PAR1", "expected parquet, found: "),
        ("my.txt", "text", r"expected a file .parquet, .jsonl or .csv, found my.txt"),
        ("none.jsonl", None, "expected a file of preferences, found none"),
    ],
)  # fmt: skip
def test_faults_of_the_file_are_one_line(tmp_path, name, content, line):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as fault:
        read_triplets(tmp_path / name)
    assert str(fault.value).startswith(str(tmp_path / name)) and line in str(fault.value)
    assert "\n" not in str(fault.value)


def test_csv_with_quotes_lines_in_a_field_and_a_byte_order_mark(tmp_path):
    text = '\ufeffprompt,chosen,rejected\r\n"My soup, hot","was ""fine"".\nSo warm.",was bad\r\n\r\na,b,NA\r\n'
    (tmp_path / "my.csv").write_bytes(text.encode())
    found = read_triplets(tmp_path / "my.csv").to_dict("list")
    assert found == {
        "prompt": ["My soup, hot", "a"],
        "chosen": ['was "fine".\nSo warm.', "b"],
        "rejected": ["was bad", "NA"],
    }


def test_a_text_without_tokens_is_refused(tmp_path, model_folder, runtime):
    how = {"runtime": runtime, "resume": tmp_path, "reference": model_folder.parent, "file": tmp_path / "my.jsonl"}
    for column in "chosen", "rejected":
        written(tmp_path / "my.jsonl", [*rows(1), rows(1)[0] | {column: ""}])
        with pytest.raises(UserError, match=f"^my.jsonl: expected a {column} with tokens, found none in row 3; fill"):
            own_preferences(tmp_path, {"validation_share": 0.25, "max_tokens": None, "seed": 0}, **how)


def test_what_is_dropped_is_counted(tmp_path, model_folder, runtime):
    equal, long = (
        {"prompt": "Dish 0", "chosen": "a", "rejected": "a"},
        {"prompt": "z " * 80, "chosen": "a", "rejected": "b"},
    )
    file = written(tmp_path / "my.jsonl", [*rows(), equal, long, long])
    how = {"runtime": runtime, "resume": tmp_path, "reference": model_folder.parent, "file": file}
    spec = {"validation_share": 0.25, "max_tokens": None, "seed": 0}
    own_preferences(tmp_path, spec, **how)
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts == {"equal": 1, "long": 2, "max_tokens": "64", "train": 12, "validation": 4}
    train, validation = (pd.read_parquet(tmp_path / f"{split}.parquet") for split in ("train", "validation"))
    assert not set(train["prompt"]) & set(validation["prompt"])
    ends = {
        ids[-1] for frame in (train, validation) for column in ("chosen_ids", "rejected_ids") for ids in frame[column]
    }
    assert len(ends) == 1 and {len(set(train["prompt_ids"].map(tuple)))} == {6}
    written(file, [equal, long])
    with pytest.raises(
        UserError, match=r"^my.jsonl: .* found 0 in 0 triplets, without 1 with .* and 1 of more than 64"
    ):
        own_preferences(tmp_path, spec, **how)
    written(file, rows())
    with pytest.raises(UserError, match=r"of more than 5 tokens; give it more"):
        own_preferences(tmp_path, spec | {"max_tokens": 5}, **how)


def test_a_tokenizer_must_end_texts(tmp_path, model_folder, runtime, monkeypatch):
    class Endless:
        eos_token_id = None

    monkeypatch.setattr(own.AutoTokenizer, "from_pretrained", lambda folder: Endless())
    file = written(tmp_path / "my.jsonl", rows())
    with pytest.raises(UserError, match="expected a tokenizer with an eos token, found none"):
        own_preferences(tmp_path, {}, runtime=runtime, resume=tmp_path, reference=model_folder.parent, file=file)


def test_a_model_with_other_logits_is_refused(runtime):
    """Cohere's are scaled: their softmax is not that of the output layer."""
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    for scale in (1.0, 0.5):
        model = CohereForCausalLM(CohereConfig(vocab_size=40, logit_scale=scale, initializer_range=0.5, **size)).eval()
        if scale == 1:
            assert own.checked(model) is model
        else:
            with pytest.raises(UserError, match="found others of CohereForCausalLM; take another"):
                own.checked(model)


def test_every_user_keeps_a_training_prompt():
    frame = pd.DataFrame({"prompt_id": [0, 0, 1, 2, 3, 4], "user": ["a", "b", "a", "c", "b", "b"]})
    for seed in range(20):
        held_out = validation_prompts(range(5), frame, 0.9, seed)
        assert held_out and set(frame.loc[~frame["prompt_id"].isin(held_out), "user"]) == {"a", "b", "c"}
    assert len(validation_prompts(range(5), frame[["prompt_id"]], 0.4, 0)) == 2


# The method


def test_methods_and_architectures():
    moe = method_of("moe", None, None, ["user"], {"beta": 0.05})
    assert (moe.experts, moe.weights, moe.beta) == (Experts(heads=4), Gate("user", perturbation=1.0), 0.05)
    ours = completed(shipped(ROOT))["policies"]["methods"]["user_moe_case1"]
    assert moe.as_dict()["phases"] == ours["phases"] and moe.as_dict()["weights"] == ours["weights"]
    assert moe.optimiser.gate_learning_rate == ours["optimiser"]["gate_learning_rate"]
    own = {"phases": [{"until": 1.0}], "weights.perturbation": 0.5, "accumulate": 2, "optimiser.warmup": 0.2}
    moe = method_of("moe", None, None, ["user"], own)
    assert (moe.phases, moe.weights.perturbation) == ((Phase(1.0),), 0.5)
    assert (moe.optimiser.accumulate, moe.optimiser.warmup, moe.optimiser.gate_learning_rate) == (2, 0.2, 3e-3)
    assert method_of("moe", None, None, [], {}).weights == Gate()
    mix = method_of("mix", 3, "adapters", ["user"], {})
    assert (mix.experts, mix.weights) == (Experts(adapters=3, perturbation=0.02), Weights())
    assert method_of("dpo", None, None, [], {}) == Method(Experts(models=1))


def test_a_model_is_a_folder_or_a_commit_of_the_hub(tmp_path):
    (tmp_path / "model").mkdir()
    assert model_source(str(tmp_path / "model"), tmp_path / "a/b") == {"source": "local", "path": "../../model"}
    found = model_source(f"owner/name@{'0' * 40}", tmp_path)
    assert found == {"source": "hub", "repository": "owner/name", "revision": "0" * 40}
    with pytest.raises(UserError, match="expected a folder, or NAME@COMMIT of the hub, found no owner/name@main"):
        model_source("owner/name@main", tmp_path)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("--beta 0", "moe.beta: expected a number > 0, found 0.0; correct it"),
        ("--experts 0", "moe.experts: expected heads + models + adapters ≥ 1, found 0 experts"),
        ("--set bta=1", "moe: expected a known key, found bta; did you mean beta?"),
        ("--set posterior.confidence=1", "moe.posterior: expected entropy"),
        ("--set optimiser.schedule=1e-4", "moe.optimiser.schedule: expected one of constant, linear, cosine, found"),
        ("--set beta", "--set: expected KEY=VALUE with a value in YAML, found beta"),
        ("--set seed=1", "--set: expected a setting of the method, found seed; type --seed"),
        ("--set weights.sees=user", "moe.weights.sees: expected preferences with a column user"),
        ("--set 'styles=[brief]'", "moe.styles: expected preferences with a column style, found none; set it to null"),
        ("--set top_s=2", "moe.top_s: expected none in this command, found 2; type generate --top-s"),
        ("--set 'experts.initial=[dpo]' --set experts.heads=0", "moe.experts.initial: expected none in this command"),
        ("--set weights.start=domains", "moe.weights.start: expected uniform in this command, found domains"),
        ("--method ppo", "method: expected one of dpo, mix, moe, found ppo"),
        ("--method dpo --experts 2", "experts: expected 1 with the method dpo, found 2"),
        ("--architecture lora", "architecture: expected one of heads, models, adapters, found lora"),
        ("--validation-share 1", "validation_share: expected a number between 0 and 1, found 1.0"),
        ("--seed -1", "seed: expected a number ≥ 0, found -1"),
        ("--max-tokens 0", "max_tokens: expected a number ≥ 1, found 0; raise it"),
        ("", "out: expected a folder outside the model's ., found mine; name another"),
        ("--model none", "model: expected a folder, or NAME@COMMIT of the hub, found no none"),
    ],
)  # fmt: skip
def test_faults_of_a_call_are_one_line(folder, monkeypatch, given, line):
    written(folder / "my.jsonl", rows())
    with pytest.raises(SystemExit) as stop:
        typed(f"python -m mixdpo train --preferences my.jsonl --model . --out mine {given}", monkeypatch)
    assert str(stop.value).startswith(f"error: {line}") and "\n" not in str(stop.value)
    assert not Path("mine").exists()


# What is there stays


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*") if ".mixdpo" not in p.parts}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("--preferences my.jsonl --model base --out .", "model: expected a path outside base, which train writes, found base"),
        ("--preferences my.jsonl --model base/deep --out .", "model: expected a path outside base, which train"),
        ("--preferences my.jsonl --model link --out .", "model: expected a path outside base, which train writes, found link"),
        ("--preferences preferences/my.jsonl --model own --out .", "preferences: expected a path outside preferences, "),
        ("--preferences my.jsonl --model own --out work", "in work: policy/thesis.tex: expected only files that were made here"),
        ("--preferences my.jsonl --model own --out tables", "in tables: experts.csv: expected only files that were made here"),
        ("--preferences my.jsonl --model own --out=", "out: expected a folder, found an empty name; name one"),
        ("--preferences my.jsonl --model own --out mine --tensorboard mine/policy/curves", "tensorboard: expected a path"),
        ("--preferences my.jsonl --model adapter --out mine", "model: expected a whole model, found the PEFT adapter adapter"),
    ],
)  # fmt: skip
def test_train_refuses_to_replace_what_it_did_not_make(folder, monkeypatch, given, line):
    for file in "base/config.json", "base/deep/config.json", "work/policy/thesis.tex", "tables/experts.csv", "own/a":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("mine")
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    Path("link").symlink_to("base")
    Path("preferences").mkdir()
    for file in "my.jsonl", "preferences/my.jsonl":
        written(folder / file, rows())
    before = contents(folder)
    with pytest.raises(SystemExit) as stop:
        typed(f"python -m mixdpo train {given}", monkeypatch)
    assert str(stop.value).startswith(f"error: {line}") and "\n" not in str(stop.value)
    assert contents(folder) == before


def test_other_settings_are_told_and_the_trained_policy_stays_until_the_new_one_is_whole(
    folder, model_folder, monkeypatch, capsys
):
    written(folder / "my.jsonl", rows())
    how = {"preferences": "my.jsonl", "model": model_folder, "method": "dpo", "out": "mine", **SMALL}
    train(**how, beta=0.1)
    assert "stays" not in capsys.readouterr().out
    before = contents(folder / "mine/policy")

    def fails(*_, **__):
        raise UserError("no")

    fails.__name__, fails.__module__ = "policies", own.policies.__module__
    with monkeypatch.context() as patch, pytest.raises(UserError, match="no"):
        patch.setattr(own, "policies", fails)
        train(**how, beta=0.2)
    assert contents(folder / "mine/policy") == before
    assert "policy: made with other beta 0.1, now 0.2; it stays until the new one is whole" in capsys.readouterr().out
    train(**how, beta=0.2)
    assert json.loads(Path("mine/policy/manifest.json").read_text())["spec"]["beta"] == 0.2


def test_a_folder_without_its_tokenizer_is_refused(folder, model_folder):
    """Transformers makes up a tokenizer of one or two tokens for it."""
    written(folder / "my.jsonl", rows())
    train("my.jsonl", model_folder, "whole", method="dpo", **SMALL)
    bare = Path("whole/policy/model/independent0")
    assert not list(bare.glob("tokenizer*"))
    with pytest.raises(UserError, match=r"^model: expected a tokenizer of about 300 tokens, the rows of the embedding"):
        train("my.jsonl", bare, "mine", method="dpo", **SMALL)
    assert not Path("mine/policy").exists()
    with pytest.raises(
        UserError, match=r"^policy: expected a tokenizer of about 300 tokens, the rows of the embedding"
    ):
        generate(bare, "My soup", **HOW)


def test_the_line_that_merges_an_adapter_works(folder, model_folder):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    written(folder / "my.jsonl", rows())
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)).save_pretrained("lora")
    with pytest.raises(UserError, match="expected a whole model") as error:
        model_source("lora", folder)
    line = str(error.value).partition("merge it: ")[2].partition(", then type --model lora-merged")[0]
    subprocess.run(line, shell=True, check=True, env=os.environ | {"PATH": f"{Path(sys.executable).parent}:/bin"})
    train("my.jsonl", "lora-merged", "mine", method="dpo", **SMALL)


# Training


def test_killed_it_continues_to_the_same_bytes_and_done_it_does_nothing(folder, model_folder, capsys):
    written(folder / "my.jsonl", rows(prompts=12))
    how = {"preferences": "my.jsonl", "model": model_folder, "method": "mix", "experts": 2, **SMALL, "epochs": 20}
    child = multiprocessing.get_context("fork").Process(target=train, kwargs=how | {"out": "killed"})
    child.start()
    deadline = time.monotonic() + 60
    while not (saved := list(folder.glob("killed/.mixdpo/scratch/policies-*/training.pt"))):
        assert time.monotonic() < deadline and child.is_alive()
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert torch.load(saved[0])["step"] >= 1 and not Path("killed/policy").exists()
    train(**how, out="killed")
    assert not saved[0].exists()
    train(**how, out="whole")
    files = {p.relative_to("whole") for p in Path("whole").rglob("*") if p.is_file() and ".mixdpo" not in p.parts}
    assert len(files) > 15
    for name in files:
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes(), name

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert train(**how, out=folder / "whole") == folder / "whole/policy/model"
    assert "everything is there, nothing was done" in capsys.readouterr().out
    changed = {p for p in folder.rglob("*") if p.is_file() and p.stat().st_mtime_ns != before.get(p)}
    assert not changed

    Path("whole/policy/curve.csv").write_text("x")
    with pytest.raises(
        Corrupt, match=r"in whole: policy/curve\.csv: does not match its SHA-256 in policy/manifest\.json"
    ):
        train(**how, out="whole")


def test_users_adapters_and_tensorboard(folder, model_folder, monkeypatch, capsys):
    """One training with all three; its curve is read back; text for users it knows, and for nobody else."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written(folder / "my.jsonl", rows(user=("anna", "ben"), style=("brief", "detailed")))
    typed(
        f"python -m mixdpo train --preferences my.jsonl --model {model_folder} --experts 2 --architecture adapters "
        "--epochs 2 --batch-size 4 --set optimiser.accumulate=2 --set optimiser.schedule=cosine "
        "--set optimiser.gate_learning_rate=1e-2 "
        "--tensorboard curves --precision bf16 --out mine",
        monkeypatch,
    )
    shape = json.loads(Path("mine/policy/model/policy.json").read_text())
    assert shape["adapters"] == ["expert0", "expert1"] and shape["users"] == ["anna", "ben"]
    curve = pd.read_csv("mine/policy/curve.csv")
    events = EventAccumulator("curves").Reload()
    assert {"loss", "nll", "w0", "q0/brief", "q1/detailed", "rate"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss")] == curve["step"].tolist()
    np.testing.assert_allclose([e.value for e in events.Scalars("loss")], curve["loss"], rtol=1e-6)

    how = {"policy": "mine", "prompt": "Dish 1", "max_new_tokens": 6, **HOW}
    card = Path("mine/policy/model/README.md").read_text()
    assert "- by user: anna " in card and "users=['anna']" in card

    once = generate(**how, user="anna", n=3, seed=1)
    assert len(once) == 3 and once == generate(**how, user="anna", n=3, seed=1)
    assert not any(text.startswith("Dish 1") or "<|endoftext|>" in text for text in once)
    assert generate(**how | {"policy": "mine/policy/model"}, expert=1) == generate(**how, expert=1, user="ben")
    assert generate(**how, user="ben", mixture="sequence", top_s=1)
    for wrong, line in [
        ({"user": "carl"}, r"user: expected one of the 2 users in training \(anna, ben\), found carl"),
        ({"user": "anna", "top_s": 3}, "top_s: expected 1 to 2, found 3"),
        ({"expert": 2}, "expert: expected 0 to 1, found 2"),
        ({"temperature": 0.0}, "temperature: expected a number > 0, found 0.0"),
        ({"max_new_tokens": 64}, "max_new_tokens: expected at most .*, found 64; lower it"),
        ({"prompt": ""}, "prompt: expected text, found none"),
        ({"policy": "curves"}, "curves: expected the folder of a policy, found none"),
        ({"policy": str(model_folder), "user": "anna"}, "user: expected none, for the weights of .* know no users"),
    ]:
        with pytest.raises(UserError, match=line):
            generate(**how | wrong)


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
    with pytest.raises(UserError, match="found none; type pip install --constraint"), own.events("curves"):
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
