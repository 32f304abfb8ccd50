"""Completions of the test prompts by one policy, with what is needed for its KL to the reference."""

from pathlib import Path

from transformers import AutoTokenizer

from mixdpo.completions import choose_prompts, complete
from mixdpo.language import load_language_model
from mixdpo.reference import log_probs
from mixdpo.runtime import Runtime


def evaluations(
    out: Path, spec: dict, *, runtime: Runtime, resume: Path, policy: Path, reference: Path, reviews: Path
) -> None:
    """Write `completions.parquet`: the columns of the completions stage, log_prob and reference_log_prob.

    Completions come from the policy, so log_prob − reference_log_prob (nats) averages to KL(π ‖ π_ref).
    """
    tokenizer = AutoTokenizer.from_pretrained(policy / "model")
    model = load_language_model(policy / "model", runtime)
    frame = complete(model, tokenizer, choose_prompts(reviews, tokenizer, spec), spec, runtime, resume)
    texts = frame["prompt_ids"].tolist(), frame["completion_ids"].tolist()
    frame["log_prob"] = log_probs(model, *texts, runtime)
    frame["reference_log_prob"] = log_probs(load_language_model(reference / "model", runtime), *texts, runtime)
    frame.to_parquet(out / "completions.parquet", index=False)
