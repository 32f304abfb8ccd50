"""Tokens a second of `Policy.generate` beside transformers' `generate`. See README.md."""

import itertools
import tempfile
from functools import partial
from pathlib import Path

import torch
from measure import COMPLETION, PROMPT, SIZES, interleave, options, print_machine, print_table, random_language_model
from torch import Tensor
from transformers import PreTrainedModel

from mixdpo.method.language import load_language_model
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime


@torch.no_grad()
def peer(model: PreTrainedModel, prompts: Tensor, runtime: Runtime) -> None:
    torch.use_deterministic_algorithms(False)
    how = {"do_sample": True, "top_k": 0, "max_new_tokens": COMPLETION, "pad_token_id": 0}
    with runtime.autocast():
        rows = model.generate(prompts, attention_mask=torch.ones_like(prompts), **how)
    assert rows.shape == (len(prompts), PROMPT + COMPLETION)


def ours(policy: Policy, prompts: Tensor, runtime: Runtime, expert: int | None = None) -> None:
    torch.use_deterministic_algorithms(True, warn_only=runtime.device == "cuda")  # a CUDA draw has no such version
    rows = policy.generate(prompts.tolist(), runtime=runtime, seed=0, expert=expert, max_new_tokens=COMPLETION)
    assert {len(row) for row in rows} == {COMPLETION}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    given = parser.parse_args()
    Runtime.choose("cpu", given.precisions[0], given.threads)
    print_machine(given)
    with tempfile.TemporaryDirectory() as folder:
        path = random_language_model(given.size, Path(folder))
        for batch, precision in itertools.product(given.batches, given.precisions):
            runtime = Runtime("cpu", precision, given.threads)
            model = load_language_model(path, runtime)
            model.config.eos_token_id, model.generation_config.eos_token_id = -1, None  # completions of full length
            what = {"prompts": torch.randint(SIZES[given.size]["vocab_size"], (batch, PROMPT)), "runtime": runtime}
            plain = Policy.from_language_model(model, independent_models=1)
            case1 = Policy.from_language_model(model, shared_heads=3)
            case2 = Policy.from_language_model(model, independent_models=3)
            calls = {
                "transformers.generate": partial(peer, model, **what),
                "plain model": partial(ours, plain, **what),
                "Case 1, one expert": partial(ours, case1, expert=0, **what),
                "Case 1, K = 3, token mixture": partial(ours, case1, **what),
                "Case 2, K = 3, token mixture": partial(ours, case2, **what),
            }
            times = interleave(calls, given)
            print_table(f"Batch {batch}, {precision}", times, batch * COMPLETION, "tokens")


if __name__ == "__main__":
    main()
