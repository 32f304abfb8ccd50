"""Preferences, models, settings and folders that a person gives: what is read, and faults as one line."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT
from datasets import Dataset
from library import DPO, HOW, contents, rows, typed, written
from transformers import AutoModelForCausalLM, AutoTokenizer, CohereConfig, CohereForCausalLM

from mixdpo import Experts, Gate, Method, Posterior, Weights, generate, recipe, train
from mixdpo.data.preferences import read_preferences
from mixdpo.errors import UserError
from mixdpo.library import reference as references
from mixdpo.library import training
from mixdpo.library.reference import check_logits, reference, source_of
from mixdpo.library.triplets import own_preferences
from mixdpo.run.yaml import shipped
from mixdpo.stages.preferences import validation_prompts

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
        (pd.DataFrame([["a", "b", "c", "d"]], columns=["prompt", "chosen", "rejected", "prompt"]), "preferences: expected columns that differ, found prompt twice; rename one"),
        (pd.DataFrame([["a", "b", "c", "x", "y"]], columns=["prompt", "chosen", "rejected", "user", "user"]), "preferences: expected columns that differ, found user twice"),
        (pd.DataFrame({"prompt": ["a"], "chosen": ["\ud800"], "rejected": ["c"]}, dtype=object), "preferences: expected text as chosen, found half a Unicode character in row 1"),
        (pd.DataFrame({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"], "user": [["anna"]]}), "preferences: expected text as user, found list in row 1"),
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
        UserError,
        match=r"^my.jsonl: .* found 0 in the 0 kept of 2 triplets \(dropped: 1 .*, 1 of more than 64 tokens\)",
    ):
        own_preferences(tmp_path, spec, **how)
    written(file, rows())
    with pytest.raises(UserError, match=r"of more than 5 tokens\); give it more"):
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
            with pytest.raises(UserError, match="found others in CohereForCausalLM; choose another"):
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
    with pytest.raises(UserError, match=r"^model: .* found no folder none, and the hub says: no network; correct"):
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
    assert moe.posterior == ours.posterior == Posterior(unit="user")
    assert moe.optimiser.gate_learning_rate == ours.optimiser.gate_learning_rate
    assert recipe(by_user=True, changes={"posterior": {"unit": "triplet"}}).posterior == Posterior()
    assert (
        recipe().weights == Gate() and recipe(by_user=True, changes={"weights": {"sees": "prompt"}}).weights == Gate()
    )
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
        ("--seed -1", "seed: expected a number ≥ 0 and < 2³², found -1"),
        (f"--seed {2**64}", f"seed: expected a number ≥ 0 and < 2³², found {2**64}"),
        ("--threads -1", "threads: expected a number ≥ 1, found -1; raise it"),
        ("--out my.jsonl/mine", "out: expected a folder, found the file my.jsonl; name another"),
        ("--tensorboard my.jsonl", "tensorboard: expected a folder, found the file my.jsonl; name another"),
        ("--max-tokens 0", "max_tokens: expected a number ≥ 1, found 0; raise it"),
        ("", "out: expected a folder outside the model's ., found mine; name another"),
        ("--out my.jsonl", "out: expected a folder, found the file my.jsonl; name another"),
        ("--out my.jsonl/mine", "out: expected a folder, found the file my.jsonl"),
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
    assert caplog.messages == ["mine/policy: made with beta 0.1, now 0.2; it stays until the new one is whole"]
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
