"""Artifacts of policies whose experts know the styles, or are copies, written by hand for tests of tables and figures.

Every pair has two texts and a triplet of each style; the style s prefers the text that `tastes` says. A specialist's
margin is +2 where its style prefers the text that was chosen, and −2 where it does not.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_expit, logsumexp

STYLES = ["sentiment", "informativeness", "grammar"]


def margins(
    rng, prompts: int, knows: list[float], pairs: int = 4, split: str = "test", apart: float = 0.3
) -> pd.DataFrame:
    """Triplets of one split, with margin0 to margin2: `knows[k]` times that of a specialist of style k, plus noise that
    the experts share."""
    rows, tastes = [], rng.choice([-1, 1], (prompts, pairs, len(STYLES)))
    common, own = rng.normal(0, 1, (prompts, pairs)), rng.normal(0, apart, (prompts, pairs, len(STYLES)))
    for prompt, pair in np.ndindex(prompts, pairs):
        for s, style in enumerate(STYLES):
            sign = tastes[prompt, pair, s]
            m = {
                f"margin{k}": sign
                * (2 * knows[k] * tastes[prompt, pair, k] + common[prompt, pair] + own[prompt, pair, k])
                for k in range(len(knows))
            }
            rows.append({"split": split, "style": style, "domain": "movie", "prompt": prompt} | m)
            rows[-1] |= {"pair": prompt * pairs + pair, "chosen_first": sign > 0}
    return pd.DataFrame(rows)


def judged(frame: pd.DataFrame, weights: list[float]) -> pd.DataFrame:
    """The frame with w, q and log_p of the mixture."""
    m = frame.filter(regex="^margin").to_numpy()
    both = np.log(weights) + log_expit(m)
    log_p = logsumexp(both, axis=1)
    q = pd.DataFrame(np.exp(both - log_p[:, None]), index=frame.index).add_prefix("q")
    return frame.assign(log_p=log_p, **{f"w{k}": w for k, w in enumerate(weights)}).join(q)


def policy(
    folder: Path, seed: int, knows: list[float], units: int = 0, scales: tuple[float, ...] = (), noise: float = 0.2
) -> Path:
    """All artifacts of one policy: K = len(knows) experts; `units` annotators, all told but those of the first ten.

    Expert k's own reward is 1 + knows[k] at KL 10 (1 + knows[k]), others 1; scaled by λ, gains grow as λ, KL as λ².
    """
    folder.mkdir(parents=True)
    rng, k = np.random.default_rng(0), len(knows)
    frames = [margins(rng, n, knows, split=split, apart=1.5 * noise) for split, n in (("validation", 30), ("test", 60))]
    frame = pd.concat(frames, ignore_index=True)
    drawn = np.random.default_rng(seed + 1).normal(0, noise, (len(frame), k))
    frame[[f"margin{i}" for i in range(k)]] += drawn
    judged(frame, [1 / k] * k).to_parquet(folder / "responsibilities.parquet")
    if units:
        styles = np.arange(units) % k
        l = np.where(np.arange(k) == styles[:, None], -1.0, -5.0)
        l[:10] = -np.arange(1.0, k + 1)  # all to expert 0
        named = pd.DataFrame({"unit": [f"annotator-{i:05}" for i in range(units)], "style": np.array(STYLES)[styles]})
        named.assign(n=25).join(pd.DataFrame(l).add_prefix("l")).to_parquet(folder / "units.parquet")
    texts(folder, seed, knows, scales)
    return folder


def texts(folder: Path, seed: int, knows: list[float], scales: tuple[float, ...]) -> None:
    """completions.parquet and scores.parquet of 80 prompts, and weights.parquet."""
    k, rows = len(knows), []
    prompts, level = np.arange(80), np.random.default_rng(7).normal(0, 1, 80)
    ways = [(f"expert{i}" if k > 1 else "token", i) for i in range(k)]
    noise = np.random.default_rng([seed, int(100 * knows[0])])
    for way, i in ways:
        for scale in (*scales, 1.0):
            frame = pd.DataFrame(
                {"prompt_id": prompts, "sample": 0, "decoding": f"{way}@{scale:g}" if scale < 1 else way}
            )
            ratio = 10 * (1 + knows[i]) * scale**2
            frame = frame.assign(log_prob=-50.0 + ratio, reference_log_prob=-50.0, domain="movie", completion="x")
            for s, style in enumerate(STYLES):
                frame[style] = level + noise.normal(0, 0.2, 80) + scale * (1 + knows[i] * (s == i or k == 1))
            rows.append(frame)
    frame = pd.concat(rows, ignore_index=True)
    scores = ["prompt_id", "sample", "decoding", *STYLES]
    frame[scores].to_parquet(folder / "scores.parquet")
    frame.drop(columns=STYLES).to_parquet(folder / "completions.parquet")
    weights = pd.DataFrame({"prompt_id": prompts, "domain": "movie"})
    weights.assign(**{f"w{i}": 1 / k for i in range(k)}).to_parquet(folder / "weights.parquet")


def trial(folder: Path, seeds: int = 3, scales: tuple[float, ...] = (0.25, 0.5)) -> dict[str, Path]:
    """DPO, which knows nothing, Mix-DPO per triplet and per annotator of 2, 5 and 25, and taught experts; `reference`."""
    known = {"dpo": [0.0], "mix_case1": [0.15] * 3, "mix_annotators_2": [0.3] * 3}
    known |= {"mix_annotators_5": [0.5] * 3, "mix_annotators_25": [0.8] * 3, "mix_taught": [1.0] * 3}
    artifacts = {}
    for method, knows in known.items():
        units = {"mix_annotators_2": 300, "mix_annotators_5": 120, "mix_annotators_25": 30}.get(method, 0)
        for seed in range(seeds):
            made = policy(folder / method / str(seed), seed, knows, units, scales)
            artifacts |= {f"{stage}:{method}/seed{seed}": made for stage in ("policies", "completions", "rewards")}
    reference = folder / "reference"
    reference.mkdir()
    prompts = pd.DataFrame({"prompt_id": np.arange(80), "sample": 0, "decoding": "token", "domain": "movie"})
    level = np.random.default_rng(7).normal(0, 1, 80)
    prompts.assign(**dict.fromkeys(STYLES, level)).drop(columns="domain").to_parquet(reference / "scores.parquet")
    prompts.assign(log_prob=-50.0, reference_log_prob=-50.0).to_parquet(reference / "completions.parquet")
    return artifacts | {f"{stage}:reference": reference for stage in ("completions", "rewards")}


def users(folder: Path, tastes: list[str], seeds: int = 2, prompts: int = 40, support: int = 12) -> dict[str, Path]:
    """DPO, which knows no user, and one that is told seen users; `user_mix`, whose expert k is right about style k nine times in ten, with
    weights that know seen users; `user_moe_case1`, which is alike; and a specialist of each style, always right.

    Two seen and two unseen users a style; styles disagree about every pair, so a policy of one answer is right for half.
    """
    artifacts, k = {}, len(tastes)
    for seed in range(seeds):
        rng, rows = np.random.default_rng(seed), []
        for split, n, kinds in (("validation", 20, [True]), ("test", prompts, [True, False]), ("support", 0, [False])):
            for seen, s, i in ((seen, s, i) for seen in kinds for s in range(k) for i in range(2)):
                asked = np.arange(support) + 100 * s if split == "support" else np.arange(n)[i::2]
                for prompt in asked:
                    about = {"split": split, "style": tastes[s], "user": f"{'seen' if seen else 'new'}-{s}{i}"}
                    rows.append(about | {"seen": seen, "prompt": int(prompt), "pair": int(prompt), "s": s})
        frame = pd.DataFrame(rows)
        sign = np.where(rng.random((len(frame), k)) < 0.9, 1, -1)
        told = np.where(frame["s"].to_numpy()[:, None] == np.arange(k), 2.0, -2.0) * sign
        known = np.where(frame["s"].to_numpy()[:, None] == np.arange(k), 0.97, 0.03 / (k - 1))
        gate = np.where(frame["seen"].to_numpy()[:, None], known, 1 / k)
        blind = np.where(frame["pair"] % 2 == 0, frame["s"] % 2 == 0, frame["s"] % 2 == 1) * 2.0 - 1.0
        policies = {
            "user_dpo": (blind[:, None], np.ones((len(frame), 1))),
            "user_mix": (told, gate),
        }
        informed = np.where(frame["seen"], 1.0, blind)[:, None]
        policies |= {"user_moe_case1": (told, gate), "user_dpo_told": (informed, np.ones((len(frame), 1)))}
        policies |= {f"user_specialist_{style}": (np.ones((len(frame), 1)),) * 2 for style in tastes}
        for method, (m, w) in policies.items():
            own = folder / method / str(seed)
            own.mkdir(parents=True)
            numbers = {f"margin{j}": m[:, j] for j in range(m.shape[1])} | {f"w{j}": w[:, j] for j in range(w.shape[1])}
            made = frame.drop(columns="s").assign(domain="instruction", **numbers)
            if "specialist" in method:
                made = made[made["style"] == method.removeprefix("user_specialist_")]
            made.to_parquet(own / "responsibilities.parquet")
            if method in ("user_mix", "user_moe_case1"):
                judgements(own, tastes)
                artifacts[f"judgements:{method}/seed{seed}"] = own
            artifacts[f"policies:{method}/seed{seed}"] = own
    return artifacts


def judgements(folder: Path, tastes: list[str]) -> None:
    """The expert of a user's style wins in both orders, the others lose."""
    rows = [
        {
            "decoding": f"expert{j}",
            "opponent": "user_dpo",
            "prompt_id": p,
            "user": "u",
            "style": tastes[p % len(tastes)],
        }
        | {"order": order, "score": float(j == p % len(tastes)), "tokens_difference": 0}
        for j in range(len(tastes))
        for p in range(24)
        for order in (0, 1)
    ]
    pd.DataFrame(rows).to_parquet(folder / "judgements.parquet")
