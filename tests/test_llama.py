"""A model unlike GPT-2: its tokenizer begins every text with a token, and texts end in more ways than one."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mixdpo import recipe, train
from mixdpo.errors import UserError
from mixdpo.method.language import token_rows
from mixdpo.method.policy import Policy
from mixdpo.stages.completions import completions
from mixdpo.stages.user_preferences import instruction_prompts, rated_responses

BEGIN, END, END_OF_TURN = 300, 0, 301


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory, model_folder) -> Path:
    """`model/` of an artifact: a random two-layer Llama with grouped keys, a beginning-of-text and two ends."""
    folder = tmp_path_factory.mktemp("llama") / "model"
    bpe = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    end = bpe.id_to_token(END)
    bpe.add_special_tokens(["<begin>", "<end_of_turn>"])
    begin = bpe.token_to_id("<begin>")
    bpe.post_processor = TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", begin)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<begin>", eos_token=end)
    assert tokenizer("").input_ids == [BEGIN] and tokenizer.convert_tokens_to_ids("<end_of_turn>") == END_OF_TURN
    tokenizer.save_pretrained(folder)
    size = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=BEGIN,
        eos_token_id=[END, END_OF_TURN],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(size).save_pretrained(folder)
    return folder


def test_texts_begin_as_the_tokenizer_begins_them(llama_folder, reviews_folder, tmp_path, runtime):
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    assert all(
        row[0] == BEGIN and BEGIN not in row[1:] for row in token_rows(["A film.", "A boat."], tokenizer, 64, True)
    )
    spec = {"prompts": 6, "domains": ["movie"], "split": "train", "prompt_tokens": [2, 4], "per_prompt": 2, "seed": 0}
    spec |= {"max_new_tokens": 8, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "batch_size": 4}
    completions(tmp_path, spec, runtime=runtime, resume=tmp_path, reference=llama_folder.parent, reviews=reviews_folder)
    frame = pd.read_parquet(tmp_path / "completions.parquet")
    assert frame["prompt_ids"].map(lambda ids: ids[0] == BEGIN and 3 <= len(ids) <= 8).all()
    assert not frame["prompt"].str.contains("<begin>").any()
    for row in frame.itertuples():
        whole = tokenizer.decode([*row.prompt_ids, *row.completion_ids], skip_special_tokens=True)
        assert row.prompt + row.completion == whole


def test_instructions_begin_so_and_responses_do_not(llama_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    rows = [
        {"prompt_id": i, "instruction": f"Name {i}.", "response": text, "split": split, "helpfulness": 3.0}
        for i, split in enumerate(["train", "test"])
        for text in ("The film.", "A boat.")
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "feedback.parquet")
    spec = {
        "template": "{instruction}\n",
        "styles": ["helpfulness"],
        "users_per_style": 2,
        "prompts": 1,
        "responses": 2,
    }
    spec |= {"max_prompt_tokens": 20, "max_tokens": 20, "seed": 0}
    prompts = instruction_prompts(tmp_path, tokenizer, spec)
    assert prompts["prompt_ids"][0] == tokenizer("Name 1.\n").input_ids and prompts["prompt_ids"][0][0] == BEGIN
    responses = rated_responses(tmp_path, tokenizer, spec, "train")
    assert responses["completion_ids"].map(lambda ids: BEGIN not in ids and ids[-1] == END).all()


def test_either_end_stops(llama_folder, runtime):
    policy = Policy.from_pretrained(llama_folder, runtime)
    assert policy.ends == [END, END_OF_TURN]
    drawn = policy.generate([[BEGIN, 5]] * 400, runtime=runtime, seed=0, max_new_tokens=40)
    assert {row[-1] for row in drawn if len(row) < 40} == {END, END_OF_TURN}
    assert not any({END, END_OF_TURN} & set(row[:-1]) for row in drawn)


@pytest.mark.parametrize("architecture", ["heads", "models", "adapters"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_experts_of_every_kind_train_and_write(llama_folder, architecture, precision, tmp_path, capsys):
    rows = [
        {"prompt": f"Name {i}.", "chosen": f" Film {i}.", "rejected": f" A boat of {i}.", "user": "ab"[i % 2]}
        for i in range(8)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    changes = {"optimiser": {"epochs": 4, "learning_rate": 1e-3, "batch_size": 4}}
    method = recipe(experts=2, architecture=architecture, by_user=True, changes=changes)
    how = {"device": "cpu", "precision": precision, "threads": 1}
    policy = train(file, llama_folder, method, out=tmp_path / "out", **how)
    figures = json.loads((tmp_path / "out/policy/validation.json").read_text())
    assert figures["after"]["nll"] < figures["before"]["nll"]
    assert len(policy.generate("Name 3.", "a", max_new_tokens=4)) == 1
    with pytest.raises(UserError, match="user: expected one of the 2 users"):
        policy.generate("Name 3.", "c", max_new_tokens=4)
