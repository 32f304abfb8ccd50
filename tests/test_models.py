"""Mixtures decode and score as equation (1) says, on vocabularies small enough to enumerate; policies survive a disk."""

import copy
import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from transformers import GPT2Config, GPT2LMHeadModel

from mixdpo.errors import UserError
from mixdpo.method.decoding import mixture_log_probs
from mixdpo.method.initial import pretrained_gate
from mixdpo.method.language import TokenBatch, load_language_model, sequence_log_probs
from mixdpo.method.policy import Policy
from mixdpo.method.weights import GateWeights, GlobalWeights

KINDS = {"case1": (3, 0), "case2": (0, 3), "hybrid": (1, 2)}
W = [0.5, 0.3, 0.2]
SHORT = {"max_new_tokens": 3}
PROMPT = [2, 1]


def language_model(width: int = 8, vocabulary: int = 4) -> GPT2LMHeadModel:
    """Four tokens, of which 0 ends; weights large enough that the next token is not uniform."""
    torch.manual_seed(0)
    sizes = {"n_embd": width, "n_layer": 1, "n_head": 2, "n_positions": 16, "initializer_range": 0.5}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, **sizes)).eval()


def mixture(kind: str, weights=W, scale: float = 0.7) -> Policy:
    """Three experts that differ."""
    heads, models = KINDS[kind]
    weights = GlobalWeights(3, weights) if isinstance(weights, list) else weights
    policy = Policy.from_language_model(
        language_model(), shared_heads=heads, independent_models=models, weights=weights
    )
    policy.perturb(scale, seed=1)
    return policy.eval()


def gate(model: GPT2LMHeadModel, experts: int = 3) -> GateWeights:
    torch.manual_seed(3)
    gate = GateWeights(copy.deepcopy(model.base_model), experts)
    torch.nn.init.normal_(gate.linear.weight)
    return gate


def layers(policy: Policy) -> list:
    return [policy.output_layer(k) for k in range(policy.experts)]


def sequences(length: int = 3) -> list[list[int]]:
    """Every completion of at most `length` tokens of {0, 1, 2, 3} that stops after 0."""
    whole = itertools.product(range(4), repeat=length)
    return sorted({tuple(s[: s.index(0) + 1] if 0 in s else s) for s in whole})


@torch.no_grad()
def expert_token_log_probs(policy: Policy, k: int, completion: tuple[int, ...]) -> torch.Tensor:
    """log π_k(y_t | x, y_<t) by running expert k alone on the unpadded sequence, without the project's code."""
    tokens = torch.tensor([[*PROMPT, *completion]])
    if k < len(policy.heads):
        logits = policy.encoder(tokens).last_hidden_state @ policy.heads[k].weight.T
    else:
        logits = policy.independent[k - len(policy.heads)](tokens).logits
    values = logits.log_softmax(-1)[0, len(PROMPT) - 1 : -1]
    return values.gather(1, torch.tensor(completion)[:, None])[:, 0]


def enumerated(policy: Policy, mode: str) -> torch.Tensor:
    """π(y | x) of every completion from the definition: products and sums of probabilities, float64."""
    w, total = torch.tensor(W, dtype=torch.float64), []
    for y in sequences():
        p = torch.stack([expert_token_log_probs(policy, k, y) for k in range(3)]).double().exp()  # (K, T)
        total.append((w * p.prod(1)).sum() if mode == "sequence" else (w[:, None] * p).sum(0).prod())
    return torch.stack(total)


@pytest.mark.parametrize("kind", ["case1", "case2"])
def test_copies_decode_exactly_like_the_one_model(kind, runtime):
    """Same seed, same tokens: token mixture, every single expert, and, where one prompt draws one expert, sequences."""
    one = Policy.from_language_model(language_model(), independent_models=1)
    heads, models = KINDS[kind]
    copies = Policy.from_language_model(
        language_model(), shared_heads=heads, independent_models=models, weights=GlobalWeights(3, W)
    )
    prompts = [[2, 1], [3], [1, 3], [2, 2]] * 10
    how = {"runtime": runtime, "max_new_tokens": 8}
    expected = one.generate(prompts, seed=5, **how)
    assert copies.generate(prompts, seed=5, **how) == expected != one.generate(prompts, seed=6, **how)
    for k in range(3):
        assert copies.generate(prompts, seed=5, expert=k, **how) == expected
    for seed in range(20):
        drawn = copies.generate([PROMPT], seed=seed, mixture="sequence", **how)
        assert drawn == one.generate([PROMPT], seed=seed, mixture="sequence", **how)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["token", "sequence"])
def test_mixture_log_probs_is_equation_1_and_sums_to_one(kind, mode):
    policy, ys = mixture(kind), sequences()
    assert len(ys) == 1 + 3 + 9 * 4
    batch = TokenBatch.of([PROMPT] * len(ys), ys, "cpu")
    with torch.no_grad():
        values = mixture_log_probs(policy.token_log_probs(batch), policy.weights(torch.zeros(len(ys), 0)), mode)
    torch.testing.assert_close(values.double().exp(), enumerated(policy, mode), rtol=1e-4, atol=1e-7)
    assert values.double().exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["token", "sequence"])
def test_generate_follows_equation_1(kind, mode, runtime):
    """χ² of 20,000 completions against the enumerated distribution; the other mixture's is rejected by the same test."""
    policy, ys, n = mixture(kind), sequences(), 20_000
    drawn = policy.generate([PROMPT] * n, runtime=runtime, seed=0, mixture=mode, **SHORT)
    counts = torch.tensor([0.0] * len(ys)).index_add(
        0, torch.tensor([ys.index(tuple(y)) for y in drawn]), torch.ones(n)
    )

    def p_value(mode):
        expected = enumerated(policy, mode) * n
        cells = torch.where(expected < 5, 0, torch.arange(1, len(ys) + 1))  # rare completions share a cell
        observed, wanted = (
            torch.zeros(len(ys) + 1).double().index_add(0, cells, x.double()) for x in (counts, expected)
        )
        return chisquare(observed[wanted > 0], (wanted * n / wanted.sum())[wanted > 0]).pvalue

    assert p_value(mode) > 0.001
    assert p_value("token" if mode == "sequence" else "sequence") < 1e-6


def test_greedy_tokens_of_the_cached_mixture_are_those_of_whole_sequences(runtime):
    policy = mixture("hybrid")
    (row,) = policy.generate([PROMPT], runtime=runtime, seed=0, top_k=1, max_new_tokens=8)
    for length in range(len(row)):
        best = [
            sum(w * expert_token_log_probs(policy, k, (*row[:length], v))[-1].exp() for k, w in enumerate(W))
            for v in range(4)
        ]
        assert row[length] == max(range(4), key=best.__getitem__)


def test_top_s_renormalises_the_largest_weights(runtime):
    """w = (0.5, 0.3, 0.2): S = 2 leaves (5/8, 3/8, 0), S = 1 the first expert alone, S = 3 the whole mixture."""
    policy, generator, how = mixture("case1"), torch.Generator(), {"runtime": runtime, "seed": 4, "max_new_tokens": 8}
    for s, expected in ((1, [1, 0, 0]), (2, [5 / 8, 3 / 8, 0]), (3, W)):
        assert policy.routing([PROMPT], generator, top_s=s).exp()[0].tolist() == pytest.approx(expected)
    prompts = [PROMPT] * 50
    assert policy.generate(prompts, top_s=1, **how) == policy.generate(prompts, expert=0, **how)
    assert policy.generate(prompts, top_s=3, **how) == policy.generate(prompts, **how)
    assert policy.generate(prompts, top_s=1, **how) != policy.generate(prompts, **how)


def test_top_s_keeps_s_experts_of_equal_weight():
    """Mix-DPO starts from weights of 1/K, so a tie is the usual case: exactly S experts take part even then."""
    policy = mixture("case1", GlobalWeights(3))
    for s in (1, 2, 3):
        assert policy.routing([PROMPT], torch.Generator(), top_s=s).isfinite().sum().item() == s


def test_a_gate_routes_each_prompt_by_itself(runtime):
    """Best experts differ between prompts; completions come back in the order of the prompts."""
    model = language_model()
    policy = mixture("case2", gate(model))
    prompts = [[a, b] for a in range(4) for b in range(4)] + [[1], [2], [3]]
    log_w = policy.weights(policy.weights.features(prompts))
    features = [model.base_model(torch.tensor([p])).last_hidden_state[0].mean(0) for p in prompts]
    linear = policy.weights.linear
    torch.testing.assert_close(log_w.exp(), (torch.stack(features) @ linear.weight.T + linear.bias).softmax(-1))
    best = log_w.argmax(1)
    assert len(best.unique()) > 1
    greedy = {"runtime": runtime, "seed": 0, "top_k": 1, "max_new_tokens": 6}
    found = policy.generate(prompts, top_s=1, **greedy)
    assert found == [policy.generate([p], expert=k, **greedy)[0] for p, k in zip(prompts, best.tolist())]


@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_are_those_of_each_expert_run_alone(kind):
    policy, completions = mixture(kind), [(1, 2, 3, 0), (2,), (3, 3)]
    batch = TokenBatch.of([PROMPT] * 3, completions, "cpu")
    with torch.no_grad():
        whole, tokens = policy.log_probs(batch), policy.token_log_probs(batch)
    assert whole.shape == (3, 3) and tokens.shape == (3, 3, batch.tokens.shape[1] - 1)
    torch.testing.assert_close(whole, tokens.sum(-1))
    for row, y in enumerate(completions):
        for k in range(3):
            torch.testing.assert_close(whole[row, k], expert_token_log_probs(policy, k, y).sum(), rtol=1e-5, atol=1e-5)
    for k, model in enumerate(policy.independent, start=len(policy.heads)):
        torch.testing.assert_close(whole[:, k].detach(), sequence_log_probs(model, batch).detach())
    for experts in ([0], [2], [2, 1]):
        with torch.no_grad():
            assert policy.token_log_probs(batch, experts).equal(tokens[:, experts])


def test_the_shared_encoder_runs_once_for_all_heads(runtime):
    """In training one pass a minibatch; in decoding one pass a token, with the head that was drawn for it."""
    policy, calls = mixture("case1"), []
    policy.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    for k, head in enumerate(policy.heads):
        head.register_forward_hook(lambda *_, k=k: calls.append(k))
    policy.log_probs(TokenBatch.of([PROMPT] * 2, [(1, 2, 3), (2,)], "cpu"))
    assert calls == ["encoder"]
    calls.clear()
    (row,) = policy.generate([PROMPT], runtime=runtime, seed=0, max_new_tokens=8)
    assert calls[0] == "encoder"  # reads the prompt up to its last token
    assert calls[1::2] == ["encoder"] * len(row) and len(calls) == 1 + 2 * len(row) and set(calls[2::2]) <= {0, 1, 2}
    calls.clear()
    (row,) = policy.generate([PROMPT], runtime=runtime, seed=0, expert=1, max_new_tokens=8)
    assert calls == ["encoder"] + ["encoder", 1] * len(row)
    policy, calls = mixture("hybrid"), []
    for name, model in (("encoder", policy.encoder), *enumerate(policy.independent, start=1)):
        getattr(model, "transformer", model).register_forward_hook(lambda *_, name=name: calls.append(name))
    policy.token_log_probs(TokenBatch.of([PROMPT], [(1, 2)], "cpu"), [2])
    assert calls == [2]


def test_heads_are_copies_of_the_output_matrix_with_parameters_of_their_own():
    """GPT-2 ties its output matrix to its input embedding; a head that moves must not move the encoder."""
    model = language_model()
    policy = Policy.from_language_model(model, shared_heads=2)
    before = policy.encoder.wte.weight.detach().clone()
    assert all(head.weight.equal(model.lm_head.weight) for head in policy.heads)
    policy.perturb(0.5, seed=0)
    assert policy.encoder.wte.weight.equal(before) and model.lm_head.weight.equal(before)
    assert not policy.heads[0].weight.equal(policy.heads[1].weight)


@pytest.mark.parametrize("kind", KINDS)
def test_perturbation_is_seeded_and_of_the_given_size(kind):
    def noise(scale, seed):
        policy = Policy.from_language_model(
            language_model(32, 300), shared_heads=KINDS[kind][0], independent_models=KINDS[kind][1]
        )
        before = torch.stack([layer.weight.detach().clone() for layer in layers(policy)])
        policy.perturb(scale, seed)
        noise = torch.stack([layer.weight.detach() for layer in layers(policy)]) - before
        return noise / before.square().mean().sqrt()

    first = noise(0.1, 0)
    assert first.square().mean((1, 2)).sqrt().tolist() == pytest.approx([0.1] * 3, rel=0.05)
    assert first.equal(noise(0.1, 0)) and not first.equal(noise(0.1, 1))
    assert torch.corrcoef(first.flatten(1)).triu(1).abs().max() < 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["global", "gate"])
def test_a_policy_survives_the_disk(kind, weights, tmp_path, runtime):
    policy = mixture(kind, gate(language_model()) if weights == "gate" else W)
    policy.save_pretrained(tmp_path / "model")
    again = Policy.from_pretrained(tmp_path / "model", runtime)
    batch, prompts = TokenBatch.of([PROMPT, [3]], [(1, 2, 0), (2,)], "cpu"), [PROMPT, [3]]
    with torch.no_grad():
        assert again.log_probs(batch).equal(policy.log_probs(batch))
        features = policy.weights.features(prompts)
        assert again.weights.features(prompts).equal(features)
        assert again.weights(features).equal(policy.weights(features))
    assert again.weights.kind == weights and len(again.heads) == len(policy.heads)
    again.save_pretrained(tmp_path / "twice")
    files = sorted(p.relative_to(tmp_path / "model") for p in (tmp_path / "model").rglob("*") if p.is_file())
    assert all((tmp_path / "model" / f).read_bytes() == (tmp_path / "twice" / f).read_bytes() for f in files)


def test_a_language_model_loads_as_one_expert(model_folder, runtime):
    policy, model = Policy.from_pretrained(model_folder, runtime), load_language_model(model_folder, runtime)
    assert policy.experts == 1 and policy.weights(torch.zeros(2, 0)).tolist() == [[0.0], [0.0]]
    batch = TokenBatch.of([[5, 6]], [[7, 8, 9]], "cpu")
    assert policy.log_probs(batch)[:, 0].equal(sequence_log_probs(model, batch))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"expert": 3}, "expert: expected 0 to 2, found 3;"),
        ({"expert": -1}, "expert: expected 0 to 2, found -1;"),
        ({"top_s": 0}, "top_s: expected 1 to 3, found 0;"),
        ({"top_s": 4}, "top_s: expected 1 to 3, found 4;"),
        ({"mixture": "sentence"}, "mixture: expected token or sequence, found sentence;"),
    ],
)
def test_impossible_decoding_is_one_line(how, message, runtime):
    with pytest.raises(UserError, match=message) as raised:
        mixture("case1").generate([PROMPT], runtime=runtime, seed=0, **how, **SHORT)
    assert "\n" not in str(raised.value)


def test_no_expert_is_one_line():
    with pytest.raises(UserError, match=r"expected at least 1 expert, found 0;[^\n]*$"):
        Policy.from_language_model(language_model())


@pytest.mark.parametrize(("experts", "width"), [(2, 8), (3, 16)])
def test_a_gate_for_another_policy_is_one_line(experts, width):
    tensors = {"weight": torch.zeros(experts, width), "bias": torch.zeros(experts)}
    with pytest.raises(
        UserError, match=rf"for 3 experts over 8 features, found one for {experts} over {width};[^\n]*$"
    ):
        pretrained_gate(tensors, language_model(), 3)


def tamper(folder, kind):
    shape, tensors = json.loads((folder / "policy.json").read_text()), load_file(folder / "mixture.safetensors")
    match kind:
        case "more heads":
            shape["shared_heads"] += 1
        case "fewer heads":
            shape["shared_heads"] -= 1
        case "more models":
            shape["independent_models"] += 1
        case "a gate":
            shape["weights"] = "gate"
        case "another width":
            language_model(16).base_model.save_pretrained(folder / "encoder")
        case "another vocabulary":
            tensors["heads.0"] = torch.zeros(5, 8)
        case "no weights":
            del tensors["log_w"]
    (folder / "policy.json").write_text(json.dumps(shape))
    save_file(tensors, folder / "mixture.safetensors")


@pytest.mark.parametrize(
    "kind",
    ["more heads", "fewer heads", "more models", "a gate", "another width", "another vocabulary", "no weights"],
)
def test_parts_that_do_not_fit_are_one_line(kind, tmp_path, runtime):
    mixture("case1").save_pretrained(tmp_path / "model")
    tamper(tmp_path / "model", kind)
    with pytest.raises(UserError, match=r"^[^\n]*expected[^\n]*found[^\n]*;[^\n]*$"):
        Policy.from_pretrained(tmp_path / "model", runtime)
