"""CUDA beside the processor: the same curves in fp32, then steps and sampling at GPT-2's size. See README.md.

Needs torch, transformers and the package; TRL and datasets where they are installed. Within four minutes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from measure import COMPLETION, PROMPT, SIZES, print_rows, random_language_model, spread
from sampling import ours as sampled
from sampling import peer
from training import random_pairs, trl_step

from mixdpo.method.fit import fit
from mixdpo.method.initial import build
from mixdpo.method.language import load_language_model
from mixdpo.method.objective import PreferenceObjective, Triplets
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Experts, Gate, Method, Optimiser, Phase, Posterior, Relaxation, Weights

TOLERANCE = 1e-4
"""Largest difference of a curve's loss between processor and CUDA, both fp32, that is rounding."""
METHODS = {
    "DPO": Method(Experts(models=1)),
    "Case 1": Method(Experts(heads=3)),
    "Case 1, implicit": Method(Experts(heads=3), reward_update="implicit"),
    "Case 1, partition": Method(Experts(heads=3), reward_update="partition"),
    "Case 1, fixed weights": Method(Experts(heads=3), Weights(learn=False)),
    "Case 1, frozen encoder": Method(Experts(heads=3, encoder="frozen")),
    "Case 1, in two parts": Method(Experts(heads=3), optimiser=Optimiser(accumulate=2)),
    "Case 1, gate": Method(Experts(heads=3), Gate()),
    "Case 1, gate that sees the user": Method(Experts(heads=3), Gate("user", perturbation=1.0)),
    "Case 1, regularised": Method(Experts(heads=3), posterior=Posterior(confidence=0.5)),
    "Case 1, phases": Method(
        Experts(heads=3),
        Gate(),
        phases=(Phase(0.5, Posterior(entropy=0.5), gate_kl_uniform=1.0), Phase(1.0, beta=0.05)),
    ),
    "Case 2": Method(Experts(models=3)),
    "Hybrid": Method(Experts(heads=2, models=1)),
    "Adapters": Method(Experts(adapters=3, perturbation=0.02)),
}
NOT_COMPARED = {
    "Gumbel-Softmax": Method(Experts(heads=3), Gate(), posterior=Posterior(relaxation=Relaxation())),
}
"""The noise comes from each device's own generator: it is only run."""
TIMED = ("DPO", "Case 1", "Case 1, frozen encoder", "Case 2")


def trained(method: Method, model: Path, triplets: Triplets, batch: int, steps: int, runtime: Runtime) -> pd.DataFrame:
    """The curve of `steps` steps by the training loop of the package, with the seconds of every step."""
    users = sorted({user for _, user in triplets.contexts}) if getattr(method.weights, "sees", "") == "user" else []
    objective = PreferenceObjective(build(method, model, runtime, seed=0, users=users), method, runtime)
    objective.prepare(triplets, steps)
    parts = np.arange(len(triplets.groups)).reshape(-1, batch)
    batches, ends = [triplets.rows(parts[i % len(parts)]) for i in range(steps)], []
    with tempfile.TemporaryDirectory() as resume:
        curve = fit(
            objective,
            batches,
            lambda rows: objective.loss(triplets, rows),
            optimiser=method.optimiser,
            seed=0,
            runtime=runtime,
            resume=Path(resume),
            after_step=objective.after_step,
            observe=lambda row: ends.append(time.perf_counter()),
        )
    return curve.assign(seconds=np.diff(ends, prepend=np.nan))


def parity(folder: Path) -> list[dict]:
    """Largest difference of the loss over eight steps of every method, from the same inputs."""
    model = random_language_model("embedded", folder / "parity")
    frame, triplets = random_pairs("embedded", 16, 2)
    frame["user"] = [f"user-{i % 3}" for i in range(len(frame))]
    triplets = Triplets(frame, pd.DataFrame(triplets.reference, columns=["chosen", "rejected"]))
    rows = []
    for name, method in (METHODS | NOT_COMPARED).items():
        curves = [trained(method, model, triplets, 4, 8, Runtime.choose(d, "fp32", 1)) for d in ("cpu", "cuda")]
        difference = float((curves[0]["loss"] - curves[1]["loss"]).abs().max())
        compared = name in METHODS
        rows.append({"method": name, "difference": difference, "compared": compared, "agrees": difference < TOLERANCE})
    return rows


def milliseconds(call: Callable[[], object], calls: int) -> np.ndarray:
    """Of each call, after two to warm up."""
    call(), call()
    times = []
    for _ in range(calls):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return np.array(times)


def steps(folder: Path, batch: int, runtime: Runtime) -> dict[str, np.ndarray]:
    """Milliseconds of a training step, ours by the package's own loop and TRL's where it is installed."""
    frame, triplets = random_pairs("full", 4 * batch, 1)
    model, times = folder / "full", {}
    try:
        times["TRL, DPO"] = milliseconds(trl_step("sdpa", model, frame, batch, "bf16", runtime.device), 10)
    except ImportError as error:
        print(f"TRL is left out: {error}")
    for name in TIMED:
        torch.cuda.empty_cache()
        seconds = trained(METHODS[name], model, triplets, batch, 14, runtime)["seconds"]
        times[name] = 1000 * seconds.iloc[4:].to_numpy()
    return times


def sampling(folder: Path, batch: int, runtime: Runtime) -> dict[str, np.ndarray]:
    """Milliseconds to sample `batch` completions of full length."""
    model = load_language_model(folder / "full", runtime)
    model.config.eos_token_id, model.generation_config.eos_token_id = -1, None
    prompts = torch.randint(SIZES["full"]["vocab_size"], (batch, PROMPT), device=runtime.device)
    what = {"prompts": prompts, "runtime": runtime}
    plain = Policy.from_language_model(model, independent_models=1)
    case1 = Policy.from_language_model(model, shared_heads=3)
    calls = {
        "transformers.generate": partial(peer, model, **what),
        "one expert": partial(sampled, plain, **what),
        "Case 1, K = 3, token mixture": partial(sampled, case1, **what),
    }
    return {name: milliseconds(call, 3) for name, call in calls.items()}


def table(title: str, times: dict[str, np.ndarray], work: int, unit: str) -> dict:
    """Print median [min to max] with the ratio to row one; returns the figures."""
    first = np.median(next(iter(times.values())))
    rows = [
        [n, spread(t, 1), f"{work / np.median(t) * 1000:,.0f}", f"{first / np.median(t):.2f}"] for n, t in times.items()
    ]
    print_rows(title, rows, ["variant", "ms", f"{unit}/s", "× speed of row one"])
    return {name: [round(float(t), 3) for t in values] for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    given, start = parser.parse_args(), time.time()
    device, found = torch.cuda.get_device_name(), {}
    print(f"{device}, torch {torch.__version__}, transformers {transformers.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = parity(folder)
        print_rows("Loss on CUDA and on the processor, fp32, 8 steps: largest difference", [
            [row["method"], f"{row['difference']:.1e}", "yes" if row["agrees"] else "no" if row["compared"] else "–"]
            for row in rows
        ], ["method", "difference", f"< {TOLERANCE:g}"])  # fmt: skip
        found["parity"] = rows
        random_language_model("full", folder / "full")
        runtime = Runtime.choose("cuda", "bf16", 1)
        for batch in 22, 64:
            times = steps(folder, batch, runtime)
            found[f"step of {batch} pairs, ms"] = table(
                f"A training step of {batch} pairs, bf16", times, batch, "pairs"
            )
        for batch in 256, 2048:
            times, tokens = sampling(folder, batch, runtime), batch * COMPLETION
            found[f"{batch} completions, ms"] = table(f"Sampling {batch} completions, bf16", times, tokens, "tokens")
    machine = {"device": device, "torch": torch.__version__, "transformers": transformers.__version__}
    found |= {"machine": machine, "seconds": round(time.time() - start, 1)}
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"\n{found['seconds']} s")
    if wrong := [row["method"] for row in rows if row["compared"] and not row["agrees"]]:
        raise SystemExit(f"error: expected curves that agree to {TOLERANCE:g}, found others: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
