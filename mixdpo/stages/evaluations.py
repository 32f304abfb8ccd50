"""Completions of the test prompts by one policy, for every way of decoding, with the log-probabilities for its KL."""

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from transformers import AutoTokenizer

from mixdpo.method.decoding import mixture_log_probs
from mixdpo.method.language import load_language_model, sequence_log_probs
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.stages.completions import choose_prompts, complete
from mixdpo.stages.reference_log_probs import log_probs
from mixdpo.stages.user_preferences import instruction_prompts


@torch.no_grad()
def evaluations(
    out: Path,
    spec: dict,
    *,
    runtime: Runtime,
    resume: Path,
    policy: Path,
    reference: Path,
    reviews: Path | None = None,
    feedback: Path | None = None,
) -> None:
    """Write `completions.parquet`: the columns of the completions stage, decoding, log_prob and reference_log_prob,
    and `weights.parquet`: w0 to wK−1 of every prompt. The `top_s` experts of the largest weights decode, all if null.

    Prompts are the beginnings of `reviews`, or the instructions of `feedback`, each asked by one user.

    Completions come from the policy, so log_prob − reference_log_prob (nats) averages to KL(π ‖ π_ref).
    """
    tokenizer = AutoTokenizer.from_pretrained(policy / "model")
    model, base = Policy.from_pretrained(policy / "model", runtime), load_language_model(reference / "model", runtime)
    prompts = instruction_prompts(feedback, tokenizer, spec) if feedback else choose_prompts(reviews, tokenizer, spec)
    asked = prompts["prompt_ids"].tolist(), prompts["user"].tolist() if feedback else None
    log_w = model.log_weights(*asked)  # (N, K)
    routed = model.routing(asked[0], torch.Generator(runtime.device), top_s=spec["top_s"], users=asked[1])
    weights, frames = dict(zip(prompts["prompt_id"], routed, strict=True)), []
    for decoding, routing in decodings(model).items():
        waiting = resume / decoding
        waiting.mkdir(exist_ok=True)
        frame = complete(model, tokenizer, prompts, spec, runtime, waiting, top_s=spec["top_s"], **routing)
        frame["decoding"] = decoding
        texts = frame["prompt_ids"].tolist(), frame["completion_ids"].tolist()

        def value(batch, prompt_ids, routing=routing) -> Tensor:
            if "expert" in routing:
                return model.token_log_probs(batch, [routing["expert"]]).sum(dim=(1, 2))
            return mixture_log_probs(
                model.token_log_probs(batch), torch.stack([weights[i] for i in prompt_ids]), **routing
            )

        frame["log_prob"] = log_probs(value, *texts, runtime, contexts=frame["prompt_id"].tolist())
        frame["reference_log_prob"] = log_probs(lambda batch, _: sequence_log_probs(base, batch), *texts, runtime)
        frames.append(frame)
    pd.concat(frames, ignore_index=True).to_parquet(out / "completions.parquet", index=False)
    w = pd.DataFrame(log_w.exp().cpu().numpy()).add_prefix("w")
    known = [column for column in ("prompt_id", "domain", "user", "style") if column in prompts]
    prompts[known].join(w).to_parquet(out / "weights.parquet", index=False)


def decodings(policy: Policy) -> dict[str, dict]:
    """Ways of decoding by name, as arguments of `Policy.generate`. A single expert has one way."""
    mixtures = {mixture: {"mixture": mixture} for mixture in ("token", "sequence")}
    if policy.experts == 1:
        return {"token": mixtures["token"]}
    return mixtures | {f"expert{k}": {"expert": k} for k in range(policy.experts)}
