"""The library: documents as written, faults of what is given, resume, inputs in memory, generation, export."""

import json
import multiprocessing
import os
import re
import runpy
import shlex
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
import yaml
from conftest import ROOT, copy_project
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, CohereConfig, CohereForCausalLM

import mixdpo
from mixdpo import Experts, Gate, Method, Optimiser, TextPolicy, Weights, export, generate, recipe, train, training
from mixdpo import __main__ as command
from mixdpo import reference as references
from mixdpo.data.preferences import read_preferences
from mixdpo.errors import Corrupt, UserError
from mixdpo.experts import expert_table
from mixdpo.fields import merged
from mixdpo.reference import check_logits, reference, source_of
from mixdpo.run import checks
from mixdpo.run.config import published
from mixdpo.run.config import spec as config_slice
from mixdpo.run.graph import table_inputs
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped
from mixdpo.stages import judges, rewards
from mixdpo.stages.assets.feedback import feedback
from mixdpo.stages.preferences import validation_prompts
from mixdpo.triplets import own_preferences

HOW = {"device": "cpu", "precision": "fp32", "threads": 1}
SMALL = Optimiser(epochs=2, batch_size=4)
DPO = Method(Experts(models=1), optimiser=SMALL)
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
    """Run a line of a shell that calls `mixdpo`."""
    words = shlex.split(os.path.expandvars(line))
    assert words[0] == "mixdpo"
    monkeypatch.setattr(sys, "argv", words)
    command.main()


def ran(code: str, **names) -> dict:
    """The names that a block of Python defines."""
    Path("block.py").write_text(code)
    return runpy.run_path("block.py", names)


def contents(folder: Path) -> dict[str, bytes | None]:
    """What is in a folder, by relative path, but for locks, staging folders and resume state."""
    paths = [p for p in folder.rglob("*") if ".mixdpo" not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in paths}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder, on a machine of one core: other tests compute on one thread too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    return tmp_path


# The documents


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
    assert (folder / "short/config.json").is_file()
    ran(memory)
    assert contents(Path("mine/policy/model")) == contents(Path("same/policy/model"))
    capsys.readouterr()
    ran(read)
    assert capsys.readouterr().out.startswith("[")


def test_the_five_lines_of_the_readme(folder, model_folder, capsys):
    (code,) = (block for block in blocks((ROOT / "README.md").read_text(), "python") if "from mixdpo import" in block)
    assert len(code.splitlines()) <= 5 and code == "".join(f"{line[4:]}\n" for line in mixdpo.__doc__.split("\n")[2:5])
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
    for number, change in enumerate(changes):
        heads = {} if "experts" in change else {"experts": {"heads": 3}}
        configured({"policies": {"methods": {f"method{number}": heads | change}}})


def test_the_documents_method_row_and_claim_bring_their_jobs(monkeypatch):
    text = (ROOT / "docs/extending.md").read_text()
    method, (row,), (claim,) = (yaml.safe_load(block) for block in blocks(text.partition("## A method")[2], "yaml"))
    config = configured(method)
    tables = published(ROOT / "workflow/published", config)
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
    checks.check_tables(config, published(ROOT / "workflow/published", config))


def test_the_documents_rated_responses_and_their_overlay(folder, runtime):
    section = (ROOT / "docs/extending.md").read_text().partition("Rated responses,")[2].partition("## A reward")[0]
    for file in "my/rated.jsonl", "my/llama/config.json", "my/reward_model/config.json":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    (row,) = blocks(section, "json")
    Path("my/rated.jsonl").write_text(json.dumps(json.loads(row)))
    config = configured(yaml.safe_load(blocks(section, "yaml")[0]))
    checks.check_tables(config, published(ROOT / "workflow/published", config))
    spec = config_slice(config, "feedback") | {"test_share": 0}
    feedback(folder, spec, runtime=runtime, resume=folder, file=Path("my/rated.jsonl"))
    frame = pd.read_parquet("feedback.parquet")
    assert frame["helpfulness"].tolist() == [4, 2] and frame["instruction_following"].tolist() == [5, 1]


# What is given


def test_three_formats_a_table_a_dataset_and_aliases(tmp_path):
    triplets = rows(objective=("brief", "detailed"), user=(1, 2))
    frame = pd.DataFrame(triplets)
    frame.to_parquet(tmp_path / "my.parquet")
    frame.to_csv(tmp_path / "my.csv", index=False)
    written(tmp_path / "my.jsonl", triplets)
    sources = [tmp_path / f"my.{kind}" for kind in ("parquet", "csv", "jsonl")]
    sources += [str(sources[0]), frame, frame.set_index(frame.index + 7), Dataset.from_pandas(frame)]
    found = [read_preferences(source) for source in sources]
    assert list(found[0]) == ["prompt", "chosen", "rejected", "style", "user"]
    assert found[0]["user"].tolist()[:2] == ["1", "2"] and found[0]["style"].tolist()[:2] == ["brief", "detailed"]
    for other in found[1:]:
        pd.testing.assert_frame_equal(other, found[0])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["a row"], "preferences: expected a path, a DataFrame or a Dataset, found list; give it one"),
        ({"train": 1}, "preferences: expected a path, a DataFrame or a Dataset, found dict; choose one of its splits"),
        (pd.DataFrame({"prompt": ["a"], "chosen": ["b"], "rejected": [3]}), "preferences: expected text as rejected, found int"),
    ],
)  # fmt: skip
def test_faults_of_preferences_in_memory_are_one_line(given, line):
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        read_preferences(given)


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
        read_preferences(tmp_path / name)
    assert str(fault.value).startswith(str(tmp_path / name)) and line in str(fault.value)
    assert "\n" not in str(fault.value)


def test_csv_with_quotes_lines_in_a_field_and_a_byte_order_mark(tmp_path):
    text = '\ufeffprompt,chosen,rejected\r\n"My soup, hot","was ""fine"".\nSo warm.",was bad\r\n\r\na,b,NA\r\n'
    (tmp_path / "my.csv").write_bytes(text.encode())
    found = read_preferences(tmp_path / "my.csv").to_dict("list")
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


def test_every_user_keeps_a_training_prompt():
    frame = pd.DataFrame({"prompt_id": [0, 0, 1, 2, 3, 4], "user": ["a", "b", "a", "c", "b", "b"]})
    for seed in range(20):
        held_out = validation_prompts(range(5), frame, 0.9, seed)
        assert held_out and set(frame.loc[~frame["prompt_id"].isin(held_out), "user"]) == {"a", "b", "c"}
    assert len(validation_prompts(range(5), frame[["prompt_id"]], 0.4, 0)) == 2


# The model


def test_a_tokenizer_must_end_texts(tmp_path, model_folder, runtime):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="expected a tokenizer with an eos token, found none"):
        reference(tmp_path, {"source": "memory"}, runtime=runtime, resume=tmp_path, model=(model, tokenizer))


def test_a_model_with_other_logits_is_refused(runtime):
    """Cohere's are scaled: their softmax is not that of the output layer."""
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    for scale in (1.0, 0.5):
        model = CohereForCausalLM(CohereConfig(vocab_size=40, logit_scale=scale, initializer_range=0.5, **size)).eval()
        if scale == 1:
            check_logits(model)
        else:
            with pytest.raises(UserError, match="found others of CohereForCausalLM; take another"):
                check_logits(model)


def test_a_model_is_a_folder_a_name_on_the_hub_or_loaded(tmp_path, model_folder, monkeypatch):
    (tmp_path / "model").mkdir()
    assert source_of(tmp_path / "model", tmp_path / "a/b") == {"source": "local", "path": "../../model"}
    found = source_of(f"owner/name@{'0' * 40}", tmp_path)
    assert found == {"source": "hub", "repository": "owner/name", "revision": "0" * 40}
    commit, newest = iter("12"), "3"
    monkeypatch.setattr(references.hub, "snapshot", lambda name, revision: tmp_path / (revision or next(commit) * 40))
    assert source_of("owner/name", tmp_path) == found | {"revision": "1" * 40}
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference/manifest.json").write_text(json.dumps({"spec": found | {"revision": newest * 40}}))
    assert source_of("owner/name", tmp_path) == found | {"revision": "3" * 40}  # as when it was made
    assert source_of("owner/other", tmp_path)["revision"] == "2" * 40

    def offline(name, revision):
        raise OSError("no network\nat all")

    monkeypatch.setattr(references.hub, "snapshot", offline)
    with pytest.raises(UserError, match=r"^model: .* found no folder none and, of the hub: no network; correct"):
        source_of("none", tmp_path)
    with pytest.raises(UserError, match=r"^model: expected a folder, NAME or NAME@COMMIT of the hub, found a/b@main; "):
        source_of("a/b@main", tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    with pytest.raises(UserError, match=r"^model: expected a path, .* found GPT2LMHeadModel; give the tokenizer"):
        source_of(model, tmp_path)
    first = source_of((model, tokenizer), tmp_path)
    assert first == source_of((model, tokenizer), tmp_path) and first["source"] == "memory"
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias[3] += 1e-3
    assert source_of((model, tokenizer), tmp_path) != first


# The method


def test_recipes():
    moe = recipe("moe", by_user=True, changes={"beta": 0.05})
    assert (moe.experts.heads, moe.weights.sees, moe.weights.start, moe.beta) == (4, "user", "uniform", 0.05)
    ours = Method.of(shipped(ROOT)["policies"]["methods"]["user_moe_case1"])
    assert moe.weights.perturbation == ours.weights.perturbation == 1
    assert moe.optimiser.gate_learning_rate == ours.optimiser.gate_learning_rate
    assert [moe.at(share).weights for share in (0, 0.59, 0.6)] == [ours.at(share).weights for share in (0, 0.59, 0.6)]
    assert recipe(by_user=True, changes={"phases": []}).phases == ()
    assert recipe().weights == Gate() and not recipe(by_user=True, changes={"weights": {"sees": "prompt"}}).phases
    mix = recipe("mix", experts=3, architecture="adapters", by_user=True)
    assert (mix.experts, mix.weights) == (Experts(adapters=3, perturbation=0.02), Weights())
    assert recipe("dpo") == Method(Experts(models=1))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("--beta 0", "moe.beta: expected a number > 0, found 0.0; correct it"),
        ("--experts 0", "moe.experts: expected heads + models + adapters ≥ 1, found 0 experts"),
        ("--set bta=1", "moe: expected a known key, found bta; did you mean beta?"),
        ("--set optimiser.batchsize=1", "moe.optimiser: expected a known key, found batchsize; did you mean batch_size?"),
        ("--set posterior='{confidence: 1}'", "moe.posterior: expected entropy"),
        ("--set optimiser.schedule=1e-4", "moe.optimiser.schedule: expected one of constant, linear, cosine, found 0.0001"),
        ("--set beta", "--set: expected KEY=VALUE with a value in YAML, found beta"),
        ("--set seed=1", "--set: expected a setting of the method, found seed; type --seed"),
        ("--set weights.sees=user", "weights.sees: expected preferences with a column user, found none; set it to prompt"),
        ("--set 'styles=[brief]'", "styles: expected preferences with a column style, found none; set it to null"),
        ("--set top_s=2", "top_s: expected none in training, found 2; give it to generate"),
        ("--set 'experts={heads: 0, initial: [dpo]}'", "experts.initial: expected none here, found ['dpo']"),
        ("--set weights.start=domains", "weights.start: expected uniform here, found domains"),
        ("--method ppo", "method: expected one of dpo, mix, moe, found ppo"),
        ("--method dpo --experts 2", "experts: expected 1 with the method dpo, found 2"),
        ("--architecture lora", "architecture: expected one of heads, models, adapters, found lora"),
        ("--validation-share 1", "validation_share: expected a number between 0 and 1, found 1.0"),
        ("--seed -1", "seed: expected a number ≥ 0, found -1"),
        ("--max-tokens 0", "max_tokens: expected a number ≥ 1, found 0; raise it"),
        ("", "out: expected a folder outside the model's ., found mine; name another"),
        ("--model a/b/c", "model: expected a folder, NAME or NAME@COMMIT of the hub, found a/b/c"),
    ],
)  # fmt: skip
def test_faults_of_a_call_are_one_line(folder, monkeypatch, given, line):
    written(folder / "my.jsonl", rows())
    with pytest.raises(SystemExit) as stop:
        typed(f"mixdpo train --preferences my.jsonl --model . --out mine {given}", monkeypatch)
    assert str(stop.value).startswith(f"error: {line}") and "\n" not in str(stop.value)
    assert not Path("mine").exists()


# What is there stays


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("--preferences my.jsonl --model reference --out .", "model: expected a path outside reference, which train writes, found reference"),
        ("--preferences my.jsonl --model reference/deep --out .", "model: expected a path outside reference, which train"),
        ("--preferences my.jsonl --model link --out .", "model: expected a path outside reference, which train writes, found link"),
        ("--preferences preferences/my.jsonl --model own --out .", "preferences: expected a path outside preferences, "),
        ("--preferences my.jsonl --model own --out work", "work/policy/thesis.tex: expected only files that were made here"),
        ("--preferences my.jsonl --model own --out tables", "tables/experts.csv: expected only files that were made here"),
        ("--preferences my.jsonl --model own --out=", "out: expected a folder, found an empty name; name one"),
        ("--preferences my.jsonl --model own --out mine --tensorboard mine/policy/curves", "tensorboard: expected a path"),
        ("--preferences my.jsonl --model adapter --out mine", "model: expected a whole model, found the PEFT adapter adapter"),
    ],
)  # fmt: skip
def test_train_refuses_to_replace_what_it_did_not_make(folder, monkeypatch, given, line):
    mine = (
        "reference/config.json",
        "reference/deep/config.json",
        "work/policy/thesis.tex",
        "tables/experts.csv",
        "own/a",
    )
    for file in mine:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("mine")
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    Path("link").symlink_to("reference")
    Path("preferences").mkdir()
    for file in "my.jsonl", "preferences/my.jsonl":
        written(folder / file, rows())
    before = contents(folder)
    with pytest.raises(SystemExit) as stop:
        typed(f"mixdpo train {given}", monkeypatch)
    assert str(stop.value).startswith(f"error: {line}") and "\n" not in str(stop.value)
    assert contents(folder) == before


def test_other_settings_are_told_and_the_trained_policy_stays_until_the_new_one_is_whole(
    folder, model_folder, monkeypatch, caplog
):
    written(folder / "my.jsonl", rows())
    how = {"preferences": "my.jsonl", "model": model_folder, "out": "mine", **HOW}
    train(**how, method=DPO)
    assert not caplog.messages
    before = contents(folder / "mine/policy")

    def fails(*_, **__):
        raise UserError("no")

    fails.__name__, fails.__module__ = "policies", training.policies.__module__
    with monkeypatch.context() as patch, pytest.raises(UserError, match="no"):
        patch.setattr(training, "policies", fails)
        train(**how, method=replace(DPO, beta=0.2))
    assert contents(folder / "mine/policy") == before
    assert caplog.messages == ["mine/policy: made with other beta 0.1, now 0.2; it stays until the new one is whole"]
    train(**how, method=replace(DPO, beta=0.2))
    assert json.loads(Path("mine/policy/manifest.json").read_text())["spec"]["beta"] == 0.2


def test_a_folder_without_its_tokenizer_is_refused(folder, model_folder):
    """Transformers makes up a tokenizer of one or two tokens for it."""
    written(folder / "my.jsonl", rows())
    train("my.jsonl", model_folder, DPO, out="whole", **HOW)
    bare = Path("whole/policy/model/independent0")
    assert not list(bare.glob("tokenizer*"))
    expected = "expected a tokenizer of about 300 tokens, the rows of the embedding"
    with pytest.raises(UserError, match=f"^model: {expected}"):
        train("my.jsonl", bare, DPO, out="mine", **HOW)
    assert not Path("mine/policy").exists()
    with pytest.raises(UserError, match=f"^policy: {expected}"):
        generate(bare, "My soup", **HOW)


def test_the_line_that_merges_an_adapter_works(folder, model_folder):
    from peft import LoraConfig, get_peft_model

    written(folder / "my.jsonl", rows())
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)).save_pretrained("lora")
    with pytest.raises(UserError, match="expected a whole model") as error:
        source_of("lora", folder)
    line = str(error.value).partition("merge it: ")[2].partition(", then type --model lora-merged")[0]
    subprocess.run(line, shell=True, check=True, env=os.environ | {"PATH": f"{Path(sys.executable).parent}:/bin"})
    train("my.jsonl", "lora-merged", DPO, out="mine", **HOW)


# Training


def test_killed_it_continues_to_the_same_bytes_and_done_it_does_nothing(folder, model_folder):
    written(folder / "my.jsonl", rows(prompts=12))
    method = Method(Experts(heads=2), optimiser=replace(SMALL, epochs=20))
    how = {"preferences": "my.jsonl", "model": model_folder, "method": method, **HOW}
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
    assert spec["weights"]["perturbation"] == 1 and spec["experts"]["perturbation"] == 0.02
    shape = json.loads(Path("mine/policy/model/policy.json").read_text())
    assert shape["adapters"] == ["expert0", "expert1"] and shape["users"] == ["anna", "ben"]
    curve = pd.read_csv("mine/policy/curve.csv")
    events = EventAccumulator("curves").Reload()
    assert {"loss", "nll", "w0", "q0/brief", "q1/detailed", "rate"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss")] == curve["step"].tolist()
    np.testing.assert_allclose([e.value for e in events.Scalars("loss")], curve["loss"], rtol=1e-6)
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


# Text, and models


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder) -> Path:
    """The folders of three policies of two experts: heads, models and adapters, all under a gate that sees users."""
    folder = tmp_path_factory.mktemp("trained")
    for kind in "heads", "models", "adapters":
        method = recipe(experts=2, architecture=kind, by_user=True, changes={"optimiser": {"epochs": 1}})
        train(pd.DataFrame(rows(prompts=4, user=("anna", "ben"))), model_folder, method, out=folder / kind, **HOW)
    return folder


def test_text_for_prompts_and_users(trained, model_folder):
    policy, how = TextPolicy(trained / "heads", **HOW), {"max_new_tokens": 6, "seed": 1}
    once = policy.generate("Dish 1", "anna", n=3, **how)
    assert len(once) == 3 and once == generate(trained / "heads", ["Dish 1"], ["anna"], n=3, **how, **HOW)
    assert not any(text.startswith("Dish 1") or "<|endoftext|>" in text for text in once)
    two = policy.generate(["Dish 1", "Dish 22"], ["anna", "ben"], n=2, expert=1, **how)
    assert len(two) == 4
    assert (
        two[:2]
        == policy.generate(["Dish 1"], n=2, expert=1, **how)
        == policy.generate("Dish 1", "ben", n=2, expert=1, **how)
    )
    assert policy.generate("Dish 1", "ben", mixture="sequence", top_s=1, **how)
    for wrong, line in [
        ({"users": "carl"}, r"user: expected one of the 2 users in training \(anna, ben\), found carl"),
        ({"users": ["anna", "ben"]}, "users: expected 1, one for each prompt, found 2; name as many"),
        ({"top_s": 3}, "top_s: expected 1 to 2, found 3"),
        ({"expert": 2}, "expert: expected 0 to 1, found 2"),
        ({"temperature": 0.0}, "temperature: expected a number > 0, found 0.0"),
        ({"n": 0}, "n: expected a number > 0, found 0"),
        ({"max_new_tokens": 64}, "max_new_tokens: expected at most .*, found 64; lower it"),
        ({"prompts": "z " * 80}, "prompt: expected fewer tokens than the model's 64 positions, found"),
        ({"prompts": ""}, "prompt: expected text, found none"),
        ({"prompts": [3]}, "prompt: expected text, found int"),
    ]:
        with pytest.raises(UserError, match=f"^{line}"):
            policy.generate(**{"prompts": "Dish 1", "users": "anna"} | how | wrong)
    with pytest.raises(UserError, match=r"users: expected none: the weights of .* know none, found anna; drop them"):
        generate(model_folder, "Dish 1", "anna", **HOW)
    with pytest.raises(UserError, match="expected the folder of a policy, found none"):
        TextPolicy(trained)


@pytest.mark.parametrize("kind", ["heads", "models", "adapters"])
def test_an_exported_expert_is_a_model_with_its_logits(trained, tmp_path, kind):
    policy, tokens = TextPolicy(trained / kind, **HOW), torch.arange(1, 9)[None]
    folders = export(trained / kind, tmp_path / "all")
    assert folders == [tmp_path / "all/expert0", tmp_path / "all/expert1"]
    assert export(trained / kind, tmp_path / "one", expert=1) == [tmp_path / "one"]
    assert contents(tmp_path / "one") == contents(tmp_path / "all/expert1")
    for k, folder in enumerate(folders):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        expected = policy.policy.expert(k)(input_ids=tokens).logits
        torch.testing.assert_close(model(input_ids=tokens).logits, expected, rtol=1e-4, atol=1e-4)
        assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
        assert "library_name: transformers" in (folder / "README.md").read_text()
    logits = [AutoModelForCausalLM.from_pretrained(folder)(input_ids=tokens).logits for folder in folders]
    assert not torch.allclose(*logits)


def test_export_replaces_nothing(trained, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    typed(f"mixdpo export --policy {trained}/heads --out {tmp_path}/mine --expert 0", monkeypatch)
    assert capsys.readouterr().out == f"{tmp_path}/mine\n"
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"out: expected a new or an empty folder, found .*mine; name another"):
        export(trained / "heads", tmp_path / "mine")
    with pytest.raises(UserError, match="expert: expected 0 to 1, found 2"):
        export(trained / "heads", tmp_path / "other", expert=2)
    assert contents(tmp_path) == before


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
