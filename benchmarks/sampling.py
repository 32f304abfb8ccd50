"""Sampling completions: `Policy.generate` and transformers' `generate`. See README.md."""

from collections.abc import Callable
from pathlib import Path

import torch
from measure import COMPLETION, PROMPT, random_language_model
from transformers import AutoModelForCausalLM

from mixdpo.method.language import load_language_model
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime

EXPERTS = {"one expert": {"independent_models": 1}, "Case 1, K = 3, by token": {"shared_heads": 3}}


def ours(folder: Path, experts: str, size: str, batch: int, precision: str) -> Callable[[], None]:
    """Our sampling as its users run it."""
    runtime = Runtime.choose("cpu", precision, torch.get_num_threads())
    return our_sampling(experts, random_language_model(size, folder / "model"), batch, runtime)


def our_sampling(experts: str, path: Path, batch: int, runtime: Runtime) -> Callable[[], None]:
    """Completions of full length, by a mixture of exact copies of the model."""
    model = load_language_model(path, runtime)
    model.config.eos_token_id = -1  # no completion ends early
    policy = Policy.from_language_model(model, **EXPERTS[experts])
    prompts = random_prompts(model.config.vocab_size, batch).tolist()

    def call() -> None:
        rows = policy.generate(prompts, runtime=runtime, seed=0, max_new_tokens=COMPLETION)
        assert {len(row) for row in rows} == {COMPLETION}

    return call


def transformers(folder: Path, attention: str, size: str, batch: int, precision: str) -> Callable[[], None]:
    """Transformers' sampling as its users run it."""
    return their_sampling(attention, random_language_model(size, folder / "model"), batch, precision)


def their_sampling(
    attention: str, path: Path, batch: int, precision: str, device: str = "cpu", cache: str | None = None
) -> Callable[[], None]:
    """Completions of full length, by a model whose weights have this precision."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attention).to(device).eval()
    model.generation_config.eos_token_id = None  # no completion ends early
    prompts = random_prompts(model.config.vocab_size, batch).to(device)
    how = {"do_sample": True, "top_k": 0, "max_new_tokens": COMPLETION, "pad_token_id": 0}
    how["cache_implementation"] = cache

    @torch.no_grad()
    def call() -> None:
        rows = model.generate(prompts, attention_mask=torch.ones_like(prompts), **how)
        assert rows.shape == (len(prompts), PROMPT + COMPLETION)

    return call


def random_prompts(vocabulary: int, batch: int) -> torch.Tensor:
    return torch.randint(vocabulary, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
