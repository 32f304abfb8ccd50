"""Log-probabilities and perplexity are transformers' own; SFT lowers the latter."""

from dataclasses import asdict

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralModel

from mixdpo.method.language import (
    Gelu,
    TokenBatch,
    head_log_probs,
    load_language_model,
    padded,
    perplexity,
    sequence_log_probs,
    token_rows,
)
from mixdpo.run.settings import Sft
from mixdpo.stages.reference_log_probs import each_text, texts_of
from mixdpo.stages.sft import sft


def test_perplexity_is_exp_of_the_library_loss(model_folder, runtime):
    model = load_language_model(model_folder, runtime)
    rows = [[5, 6, 7, 8, 9], [9, 8, 7]]
    with torch.no_grad():
        losses = [model(torch.tensor([row]), labels=torch.tensor([row])).loss.item() * (len(row) - 1) for row in rows]
    assert perplexity(model, rows, runtime) == pytest.approx(torch.tensor(sum(losses) / 6).exp().item(), rel=1e-5)


def test_log_probs_ignore_padding_and_prompt(model_folder, runtime):
    """Each value sums log softmax of the model on the unpadded sequence, over completion tokens alone."""
    model = load_language_model(model_folder, runtime)
    prompts, completions = [[5, 6], [7]], [[8, 9, 10, 11], [12]]
    with torch.no_grad():
        ours = sequence_log_probs(model, TokenBatch.of(prompts, completions, "cpu"))
        for value, prompt, completion in zip(ours, prompts, completions):
            whole = torch.tensor([prompt + completion])
            values = model(whole).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            expected = values.gather(1, torch.tensor(completion)[:, None]).sum()
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_head_log_probs_and_gradients_are_those_of_cross_entropy(bias, precision, tolerance):
    """Over several chunks and a row of probability close to 1; what is frozen gets no gradient, weights theirs in fp32."""
    torch.manual_seed(0)
    head, targets, given = torch.nn.Linear(16, 50, bias=bias), torch.randint(50, (700,)), torch.randn(700)
    states = torch.randn(700, 16)
    states[0] = 40 * head.weight[targets[0]].detach()
    plain = -torch.nn.functional.cross_entropy(head(states.requires_grad_()), targets, reduction="none")
    expected = torch.autograd.grad(plain, [states, *head.parameters()], given)
    for frozen in (None, states, head.weight):
        learned = [p for p in (states, *head.parameters()) if p is not frozen]
        for p in (states, *head.parameters()):
            p.requires_grad_(p is not frozen)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            values = head_log_probs(states, head, targets)
            with torch.no_grad():
                assert head_log_probs(states, head, targets).equal(values)
        found = dict(zip(learned, torch.autograd.grad(values, learned, given)))
        assert (values - plain).norm() < tolerance * plain.norm()
        for p, gradient in zip((states, *head.parameters()), expected):
            if p is not frozen:
                assert found[p].dtype == torch.float32
                assert (found[p] - gradient).norm() < tolerance * gradient.norm()


def test_each_text_is_computed_once(runtime):
    """`value` here adds up the tokens of a row, so every result says which row it belongs to."""
    seen = []

    def value(batch):
        seen.extend(batch.tokens.sum(dim=1).tolist())
        return batch.tokens.sum(dim=1).double()

    texts = texts_of([[1], [2, 2], [1], [3], [1]], [[10, 10], [20], [10, 10], [10], [10, 10]])
    found = each_text(value, texts, runtime, batch_size=2)
    assert [found[text].item() for text in texts] == [21, 24, 21, 13, 21]
    assert sorted(seen) == [13, 21, 24]


def test_token_rows(model_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    text = "The film is a quiet story about two sisters and a boat."
    (whole,) = token_rows([text], tokenizer, 1000, first_only=True)
    assert tokenizer.decode(whole[:-1]) == text and whole[-1] == tokenizer.eos_token_id
    pieces = token_rows([text], tokenizer, 5, first_only=False)
    assert [token for piece in pieces for token in piece] in (whole, whole[:-1]) and all(
        1 < len(piece) <= 5 for piece in pieces
    )
    assert token_rows([text], tokenizer, 5, first_only=True) == pieces[:1]


def test_sft_lowers_perplexity(tmp_path, model_folder, reviews_folder, runtime):
    spec = {
        "domains": ["movie"],
        "reviews": 20,
        "max_tokens": 48,
        "perplexity_reviews": 10,
        "epochs": 5,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "warmup": 0.1,
        "schedule": "linear",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "seed": 0,
    }
    sft(tmp_path, spec, runtime=runtime, resume=tmp_path, base=model_folder.parent, reviews=reviews_folder)
    table = pd.read_csv(tmp_path / "perplexity.csv").iloc[0]
    assert table["domain"] == "movie" and table["reviews"] == 10 and table["after"] < 0.5 * table["before"]
    assert len(pd.read_csv(tmp_path / "curve.csv")) == 25
    assert (
        load_language_model(tmp_path / "model", runtime).config.vocab_size
        == load_language_model(model_folder, runtime).config.vocab_size
    )


def test_no_epoch_of_fine_tuning_keeps_the_base_model(tmp_path, model_folder, reviews_folder, runtime):
    """The poster's reference is the pretrained model: `sft: {epochs: 0}`."""
    spec = asdict(Sft()) | {"domains": ["movie"], "epochs": 0, "max_tokens": 32}
    sft(tmp_path, spec, runtime=runtime, resume=tmp_path, base=model_folder.parent, reviews=reviews_folder)
    weights = [load_file(folder / "model.safetensors") for folder in (model_folder, tmp_path / "model")]
    assert weights[0].keys() == weights[1].keys() and all(weights[0][n].equal(weights[1][n]) for n in weights[0])
    table = pd.read_csv(tmp_path / "perplexity.csv")
    assert (table["before"] == table["after"]).all()


def test_causal_attention_needs_no_mask_while_a_graph_is_captured(model_folder, tmp_path, monkeypatch):
    """The same states as fused attention, where transformers, which thinks that it is traced, would make a mask."""
    tokens, states, masks = torch.arange(24).reshape(2, 12), [], []
    fused = torch.nn.functional.scaled_dot_product_attention

    def spy(*given, attn_mask=None, **how):
        masks.append(attn_mask)
        return fused(*given, attn_mask=attn_mask, **how)

    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda tensor=None: True)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    for attention in ("sdpa", "causal"):
        model = AutoModelForCausalLM.from_pretrained(model_folder, attn_implementation=attention)
        with torch.no_grad():
            states.append(model.eval().base_model(tokens, use_cache=False).last_hidden_state)
        assert masks and all((mask is None) == (attention == "causal") for mask in masks)
        masks.clear()
    torch.testing.assert_close(*states)
    model.save_pretrained(tmp_path)
    assert "causal" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("vocabulary", [50, 64, 65])
def test_rows_that_fill_up_the_vocabulary_get_no_probability(vocabulary):
    """`padded` adds rows of zeros, whose logits would be 0: values and gradients are those of the matrix itself."""
    torch.manual_seed(0)
    head, states, targets = (
        torch.nn.Linear(8, vocabulary, bias=False),
        torch.randn(5, 8),
        torch.tensor([0, 1, 2, 3, 49]),
    )
    assert padded(head.weight, torch.bfloat16).shape == ({50: 64, 64: 64, 65: 128}[vocabulary], 8)
    values = head_log_probs(states.requires_grad_(), head, targets)
    expected = head(states).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(values, expected)
    for p in (states, head.weight):
        (found,) = torch.autograd.grad(values.sum(), p, retain_graph=True)
        torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), p, retain_graph=True)[0])


def test_a_batch_with_room_gives_the_same_numbers(model_folder, runtime):
    model = load_language_model(model_folder, runtime)
    texts = [[5, 6], [7], []], [[8, 9, 10, 11], [12], [13, 14]]
    tight, roomy = TokenBatch.of(*texts, "cpu"), TokenBatch.of(*texts, "cpu", (5, 16, 300))
    assert tight.tokens.shape == (3, 6) and len(tight.places) == 128 and roomy.tokens.shape == (5, 16)
    with torch.no_grad():
        both = [sequence_log_probs(model, batch) for batch in (tight, roomy)]
    torch.testing.assert_close(both[0], both[1][:3])
    assert both[1][3:].tolist() == [0, 0]
    assert tight.mask.equal(roomy.mask[:3, :5]) and not roomy.mask[3:].any() and not roomy.mask[:, 5:].any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_the_activation_is_gelu_with_tanh(dtype, tolerance):
    """Values and slopes, over several chunks and far into both tails, those of torch in float64."""
    x = torch.cat([torch.randn(2**17), torch.linspace(-30, 30, 1001)]).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    expected = torch.nn.functional.gelu(exact, approximate="tanh")
    values = Gelu()(x)
    with torch.no_grad():
        assert Gelu()(x).equal(values)
    assert values.dtype == dtype and (values - expected).norm() < tolerance * expected.norm()
    (slope,) = torch.autograd.grad(values.sum(), x)
    (slope_expected,) = torch.autograd.grad(expected.sum(), exact)
    assert slope.dtype == dtype and (slope - slope_expected).norm() < tolerance * slope_expected.norm()


def test_causal_attention_keeps_a_window(monkeypatch):
    """Layers that see four tokens back need their mask, captured or not."""
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 30}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = MistralModel(MistralConfig(**shape, **heads, sliding_window=4)).eval()
    tokens, states = torch.arange(16)[None], {}
    for attention in ("eager", "causal"):
        model.set_attn_implementation(attention)
        for traced in (False, True):
            monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda tensor=None, traced=traced: traced)
            with torch.no_grad():
                states[attention, traced] = model(tokens, use_cache=False).last_hidden_state
    for found in states.values():
        torch.testing.assert_close(found, states["eager", False])
