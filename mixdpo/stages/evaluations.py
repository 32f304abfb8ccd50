"""Completions of the test prompts by one policy, for every way of decoding, with the log-probabilities for its KL."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import AutoTokenizer

from mixdpo.method.decoding import draw, mixture_log_probs
from mixdpo.method.language import load_language_model
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.method.scaled import scaled
from mixdpo.stages.completions import choose_prompts, complete
from mixdpo.stages.reference_log_probs import Text, each_text, log_probs, texts_of
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
    completions: Path | None = None,
    feedback: Path | None = None,
) -> None:
    """Write `completions.parquet`: the columns of the completions stage, decoding, log_prob and reference_log_prob,
    and `weights.parquet`: w0 to wK−1 of every prompt. The `top_s` experts of the largest weights decode, all if null.

    Each expert is also scaled by every λ of `scales`, as `scaled` has it: `expert0@0.5`, or `token@0.5` of one expert.
    The mixture by sequence takes its completions from those of its experts: one is drawn for each row.
    Prompts are the beginnings of `reviews`, none of them a training prompt, which `completions` has; or the
    instructions of `feedback`, each asked by one user.

    Completions come from the policy, so log_prob − reference_log_prob (nats) averages to KL(π ‖ π_ref).
    """
    tokenizer = AutoTokenizer.from_pretrained(policy / "model")
    model, base = Policy.from_pretrained(policy / "model", runtime), load_language_model(reference / "model", runtime)
    if feedback:
        prompts = instruction_prompts(feedback, tokenizer, spec)
    else:
        trained = pd.read_parquet(completions / "completions.parquet", columns=["prompt"])["prompt"]
        prompts = choose_prompts(reviews, tokenizer, spec, taken=trained)
    asked = prompts["prompt_ids"].tolist(), prompts["user"].tolist() if feedback else None
    log_w = model.log_weights(*asked)  # (N, K)
    routed = model.routing(asked[0], torch.Generator(), top_s=spec["top_s"], users=asked[1]).cpu()
    ways, frames = decodings(model), {}
    models = dict.fromkeys(ways, model)
    for scale in spec["scales"]:
        at, between = f"@{scale:g}", scaled(model, scale, base)
        models |= {name + at: between for name in single_experts(model)}
        ways |= {name + at: ways[name] for name in single_experts(model)}
    for decoding in [name for name in ways if name != "sequence"]:
        waiting = resume / decoding
        waiting.mkdir(exist_ok=True)
        how = {"top_s": spec["top_s"]} | ways[decoding]
        frames[decoding] = complete(models[decoding], tokenizer, prompts, spec, runtime, waiting, **how)
    if "sequence" in ways:
        experts = [frames[f"expert{k}"] for k in range(model.experts)]
        frames["sequence"] = of_drawn_experts(
            experts, routed.repeat_interleave(spec["per_prompt"], dim=0), spec["seed"]
        )
    frame = pd.concat([frames[decoding].assign(decoding=decoding) for decoding in ways], ignore_index=True)
    weights = dict(zip(prompts["prompt_id"], routed, strict=True))
    add_log_probs(frame, {name: (models[name], ways[name]) for name in ways}, weights, base, runtime)
    frame.to_parquet(out / "completions.parquet", index=False)
    w = pd.DataFrame(log_w.exp().cpu().numpy()).add_prefix("w")
    known = [column for column in ("prompt_id", "domain", "user", "style") if column in prompts]
    prompts[known].join(w).to_parquet(out / "weights.parquet", index=False)


def of_drawn_experts(experts: Sequence[pd.DataFrame], log_w: Tensor, seed: int) -> pd.DataFrame:
    """The mixture (1): for each row an expert, drawn from its weights, log_w (N, K), and that expert's completion."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + 1_000_002)  # no batch of `complete` has this seed
    chosen = draw(log_w.exp(), torch.rand(len(log_w), generator=generator)).numpy()
    return pd.concat([frame[chosen == k] for k, frame in enumerate(experts)]).sort_index()


def add_log_probs(frame: pd.DataFrame, ways: dict[str, tuple], weights: dict, base, runtime: Runtime) -> None:
    """Add log_prob and reference_log_prob to completions: `ways` are the policy and routing of every decoding,
    `weights` the log weights (K,) of every prompt_id."""
    users = frame["user"].tolist() if "user" in frame else None
    models, routing = (frame["decoding"].map({name: way[i] for name, way in ways.items()}) for i in range(2))
    prompts, weights = frame["prompt_ids"].tolist(), frame["prompt_id"].map(weights)
    for model in dict.fromkeys(model for model, _ in ways.values()):
        own = np.flatnonzero(models == model)
        seen = texts_of(model.named(prompts, users), frame["completion_ids"])  # a policy may be told the user
        rows = list(zip(seen, routing, weights, strict=True))
        frame.loc[own, "log_prob"] = policy_log_probs(model, [rows[i] for i in own], runtime)
    frame["reference_log_prob"] = log_probs(base, texts_of(frame["prompt_ids"], frame["completion_ids"]), runtime)


def policy_log_probs(model: Policy, rows: Sequence[tuple[Text, dict, Tensor]], runtime: Runtime) -> list[float]:
    """log π(y | x) of every row: a text, how it was decoded, as arguments of `Policy.generate`, and log weights (K,).

    Every text goes through an expert once, whichever rows ask for it, and only through experts that some row needs.
    """
    needed, values = {}, {}
    for text, routing, _ in rows:
        experts = [routing["expert"]] if "expert" in routing else range(model.experts)
        needed[text] = needed.get(text, frozenset()).union(experts)
    for experts in sorted(set(needed.values()), key=sorted):
        ks, texts = sorted(experts), [text for text in needed if needed[text] == experts]
        scored = each_text(lambda batch, ks=ks: model.token_log_probs(batch, ks), texts, runtime)
        values |= {text: dict(zip(ks, scored[text], strict=True)) for text in texts}
    return [_log_prob(values[text], routing, log_w) for text, routing, log_w in rows]


def _log_prob(values: dict[int, Tensor], routing: dict, log_w: Tensor) -> float:
    """Of one text, from the log-probabilities (T,) of its tokens by expert."""
    if "expert" in routing:
        return values[routing["expert"]].sum().item()
    every = torch.stack([values[k] for k in range(len(values))])
    return mixture_log_probs(every[None], log_w[None], **routing).item()


def single_experts(policy: Policy) -> list[str]:
    """The ways of decoding one expert alone."""
    return ["token"] if policy.experts == 1 else [f"expert{k}" for k in range(policy.experts)]


def decodings(policy: Policy) -> dict[str, dict]:
    """Ways of decoding by name, as arguments of `Policy.generate`. A single expert has one way."""
    mixtures = {mixture: {"mixture": mixture} for mixture in ("token", "sequence")}
    if policy.experts == 1:
        return {"token": mixtures["token"]}
    return mixtures | {name: {"expert": k} for k, name in enumerate(single_experts(policy))}
