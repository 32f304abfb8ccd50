"""A decoding step computes what a forward pass over the whole text computes, for every architecture and mixture."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from mixdpo.method import decoding
from mixdpo.method.capture import Captured
from mixdpo.method.decoding import Decoder, Texts, decoding_mode, has_full_attention, sample
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.method.weights import GlobalWeights

END = 299
PROMPTS = [[1, 2, 3], [4, 5], [7, 8, 9, 11, 12], [3, 4, 5], [250], [6, 6, 6, 6]]
CPU = Runtime("cpu", "fp32", 1)
SIZE = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": END}
OTHER = SIZE | {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SIZE, n_positions=64, bos_token_id=0)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**OTHER)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**OTHER, sliding_window=5)),
}
SHAPES = {
    "heads": {"shared_heads": 3},
    "models": {"independent_models": 3},
    "adapters": {"adapters": 3},
    "hybrid": {"shared_heads": 2, "independent_models": 1},
}


class LikeCuda(Runtime):
    """A runtime on the processor that decodes as on CUDA, but for the graph."""

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")


def policy_of(model="gpt2", shape="hybrid", attention="sdpa") -> Policy:
    torch.manual_seed(0)
    model = MODELS[model]().eval()
    model.set_attn_implementation(attention)
    policy = Policy.from_language_model(model, **SHAPES[shape], weights=GlobalWeights(3, [0.5, 0.3, 0.2]))
    policy.perturb(3.0, seed=0)
    return policy.eval()


@torch.no_grad()
def completions(policy: Policy, runtime=CPU, experts=(0, 1, 2), most=12, ends=(END,), seed=0, **how) -> list[list[int]]:
    decoder = Decoder(policy, experts, policy.log_weights(PROMPTS)[:, list(experts)], runtime, 5 + most)
    numbers = torch.rand(len(PROMPTS), most, 2, generator=torch.Generator().manual_seed(seed))
    with decoding_mode(decoder.modules(), runtime):
        return sample(decoder, PROMPTS, ends, numbers, **how)


@torch.no_grad()
def likeliest(policy: Policy, k: int, prompt: list[int], most: int) -> list[int]:
    """The likeliest tokens of expert k, each by a whole forward pass of transformers without a cache."""
    model, tokens = policy.expert(k), list(prompt)
    for _ in range(most):
        tokens.append(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax().item())
    return tokens[len(prompt) :]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("runtime", [CPU, LikeCuda("cuda", "fp32", 1)], ids=["growing", "fixed"])
def test_steps_agree_with_forward_passes_without_a_cache(model, attention, runtime):
    policy = policy_of(model, attention=attention)
    for k in 0, 2:
        drawn = completions(policy, runtime, experts=(k,), ends=(), top_k=1)
        assert drawn == [likeliest(policy, k, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_caches_of_fixed_shapes_give_the_same_texts(model, shape):
    policy = policy_of(model, shape)
    for how in {}, {"temperature": 0.7, "top_p": 0.9}:
        assert completions(policy, **how) == completions(policy, LikeCuda("cuda", "fp32", 1), **how)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_bf16_rounds_and_changes_little_else(model, shape):
    """The logits of the mixture after two steps, in fp32 and in bf16 as on a processor and as on CUDA."""
    policy, log_p = policy_of(model, shape), []
    for runtime in CPU, Runtime("cpu", "bf16", 1), LikeCuda("cuda", "bf16", 1):
        decoder = Decoder(policy, (0, 1, 2), policy.log_weights(PROMPTS), runtime, 8)
        with torch.no_grad(), decoding_mode(decoder.modules(), runtime):
            decoder.read(torch.tensor([[5, 6, 7]]).expand(6, 3))
            log_p.append(decoder.mixed(decoder.read(torch.tensor([[8]]).expand(6, 1))))
    assert 0 < (log_p[1] - log_p[0]).abs().max() < 0.1 and 0 < (log_p[2] - log_p[0]).abs().max() < 0.1
    assert not any("forward" in vars(module) for module in policy.modules())


def test_a_token_comes_from_the_mixture():
    """By counting, first tokens have the probabilities Σ_k w_k π_k: drawn by way of an expert, and from the mixture.

    At a temperature of 1 with the 300 likeliest of 300 tokens, the mixture is formed and nothing is cut.
    """
    policy, n = policy_of(), 30_000
    prompts, numbers = [[1, 2]] * n, torch.rand(n, 1, 2, generator=torch.Generator().manual_seed(1))
    log_w = policy.log_weights(prompts)
    with torch.no_grad():
        logits = [policy.expert(k)(input_ids=torch.tensor([[1, 2]])).logits[0, -1] for k in range(3)]
        expected = sum(w * row.softmax(-1) for w, row in zip((0.5, 0.3, 0.2), logits, strict=True))
        for runtime, how in (CPU, {}), (LikeCuda("cuda", "fp32", 1), {}), (CPU, {"top_k": 300}):
            rows = sample(Decoder(policy, (0, 1, 2), log_w, runtime, 3), prompts, (), numbers, **how)
            counts = torch.tensor(rows).flatten().bincount(minlength=300) / n
            assert (counts - expected).abs().max() < 0.01
            assert (counts - expected).abs().sum() < 0.1


def test_each_row_has_its_own_weights():
    policy = policy_of()
    log_w = torch.full((6, 3), -torch.inf)
    log_w[range(6), [0, 1, 2, 0, 1, 2]] = 0.0
    numbers = torch.rand(6, 8, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixed = sample(Decoder(policy, (0, 1, 2), log_w, CPU, 13), PROMPTS, (), numbers)
        for k in range(3):
            alone = sample(Decoder(policy, (k,), torch.zeros(6, 1), CPU, 13), PROMPTS, (), numbers)
            assert [mixed[i] for i in (k, k + 3)] == [alone[i] for i in (k, k + 3)]


@pytest.mark.parametrize("model", MODELS)
def test_texts_that_leave_change_no_other(model, monkeypatch):
    policy, ends = policy_of(model), tuple(range(0, 300, 6))
    together = completions(policy, ends=ends, most=16)
    assert len({len(row) for row in together}) > 2
    monkeypatch.setattr(decoding, "STAYING", -1.0)
    assert together == completions(policy, ends=ends, most=16)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_a_step_of_fixed_shapes_asks_the_device_for_no_value(model, shape):
    """Tensors without values raise where one is read, as the capture of a CUDA graph does."""
    policy = policy_of(model, shape)
    runtime = LikeCuda("cuda", "bf16", 1)
    decoder = Decoder(policy, (0, 1, 2), policy.log_weights(PROMPTS), runtime, 16)
    with torch.no_grad(), decoding_mode(decoder.modules(), runtime):
        texts = Texts(decoder, PROMPTS, (END,), torch.rand(6, 8, 2), decoder.draw)
        texts.step()
        with FakeTensorMode(allow_non_fake_inputs=True):
            texts.step()


def test_a_window_has_no_fixed_shapes():
    assert {name: has_full_attention(MODELS[name]().config) for name in MODELS} == {
        "gpt2": True,
        "llama": True,
        "mistral with a window": False,
    }


def test_without_cuda_every_call_is_an_ordinary_one():
    seen = []
    step = Captured(lambda: seen.append(len(seen)) or len(seen))
    assert [step() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
