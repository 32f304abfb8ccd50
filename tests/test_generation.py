"""Text from a trained policy, and its experts as models of transformers."""

import runpy
from pathlib import Path

import pandas as pd
import pytest
import torch
from library import HOW, blocks, contents, rows, typed, written
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixdpo import TextPolicy, export, generate, recipe, train
from mixdpo.errors import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder) -> Path:
    """The folders of three policies of two experts: heads, models and adapters, all under a gate that sees users."""
    folder = tmp_path_factory.mktemp("trained")
    for kind in "heads", "models", "adapters":
        method = recipe(experts=2, architecture=kind, by_user=True, changes={"optimiser": {"epochs": 1}})
        train(pd.DataFrame(rows(prompts=4, user=("anna", "ben"))), model_folder, method, out=folder / kind, **HOW)
    return folder


def test_the_card_of_a_policy_says_what_runs(trained, tmp_path, monkeypatch, capsys):
    for kind in "heads", "adapters":
        monkeypatch.chdir(trained / kind / "policy/model")
        (code,) = blocks(Path("README.md").read_text(), "python")
        (tmp_path / "block.py").write_text(code)
        runpy.run_path(str(tmp_path / "block.py"))
        assert capsys.readouterr().out.startswith("[")


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
        ({"users": ["anna", "ben"]}, "users: expected 1, one for each prompt, found 2; name as many"),
        ({"top_s": 3}, "top_s: expected 1 to 2, found 3"),
        ({"expert": 2}, "expert: expected 0 to 1, found 2"),
        ({"temperature": 0.0}, "temperature: expected a number > 0, found 0.0"),
        ({"temperature": float("nan")}, "temperature: expected a number > 0, found nan"),
        ({"n": 0}, "n: expected a number > 0, found 0"),
        ({"seed": 2**70}, "seed: expected a number of 64 bits, found 1180591620717411303424; choose another"),
        ({"max_new_tokens": 64}, "max_new_tokens: expected at most .*, found 64; lower it"),
        ({"prompts": "z " * 80}, "prompt: expected fewer tokens than the model's 64 positions, found"),
        ({"prompts": ""}, "prompt: expected text, found none"),
        ({"prompts": [3]}, "prompt: expected text, found int"),
    ]:
        with pytest.raises(UserError, match=f"^{line}"):
            policy.generate(**{"prompts": "Dish 1", "users": "anna"} | how | wrong)
    with pytest.raises(
        UserError,
        match=r"users: expected none, since the weights of .* know no users, found anna; drop them, "
        "or give comparisons of theirs to adapt",
    ):
        generate(model_folder, "Dish 1", "anna", **HOW)
    with pytest.raises(UserError, match="expected the folder of a policy, found none"):
        TextPolicy(trained)


def test_a_stranger_gets_the_prior_and_comparisons_change_that(
    trained, model_folder, folder, monkeypatch, capsys, caplog
):
    """Comparisons of anna's taste give a stranger the weights of anna's expert; the folder stays as it was."""
    policy, how = TextPolicy(trained / "heads", **HOW), {"max_new_tokens": 6, "seed": 1}
    assert len(policy.generate("Dish 1", "carl", **how)) == 1
    assert "user: carl is none of the 2 that the policy knows, and gets the prior" in caplog.text
    found = {}
    for way, who in enumerate(("like anna", "like ben")):
        found[who] = policy.adapt(who, pd.DataFrame(rows(prompts=6)).iloc[way::2])
        assert found[who].sum() == pytest.approx(1) and who in policy.policy.users
    assert abs(found["like anna"] - found["like ben"]).max() > 1e-4
    caplog.clear()
    assert len(policy.generate("Dish 1", "like anna", **how)) == 1 and not caplog.text
    assert TextPolicy(trained / "heads", **HOW).policy.users == {"anna", "ben"}
    written(folder / "carl.jsonl", rows(prompts=2))
    line = (
        f"mixdpo generate --policy {trained}/heads --prompt 'Dish 1' --user carl --comparisons carl.jsonl --device cpu"
    )
    typed(line, monkeypatch)
    assert capsys.readouterr().out.strip()
    with pytest.raises(UserError, match=r"^comparisons: expected one user whose they are, found none"):
        generate(trained / "heads", "Dish 1", comparisons="carl.jsonl", **HOW)
    with pytest.raises(UserError, match=r"^reference: expected the model that training started from, found none in"):
        policy.adapt("carl", "carl.jsonl", reference=folder)


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
    with pytest.raises(UserError, match="out: expected a folder, found an empty name"):
        export(trained / "heads", "")
    with pytest.raises(UserError, match=r"out: expected a folder below folders, found .*/README\.md/x, below a file"):
        export(trained / "heads", tmp_path / "mine/README.md/x")
    assert contents(tmp_path) == before


def test_export_follows_links_and_leaves_its_neighbours(trained, tmp_path, monkeypatch):
    (tmp_path / "new.part").mkdir()
    (tmp_path / "new.part/mine").write_text("mine")
    (tmp_path / "there").mkdir()
    for link, target in ("full", "there"), ("dangling", "later"):
        (tmp_path / link).symlink_to(target)
        assert export(trained / "heads", tmp_path / link, expert=0) == [tmp_path / link]
        assert (tmp_path / target / "config.json").is_file() and (tmp_path / link).is_symlink()
    export(trained / "heads", tmp_path / "new", expert=0)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(trained / "heads", ".", expert=0)
    assert (tmp_path / "here/config.json").is_file() and (tmp_path / "new.part/mine").read_text() == "mine"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"new", "new.part", "there", "later", "full", "dangling", "here"}
