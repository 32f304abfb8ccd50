"""CUDA beside the processor: the same curves in fp32, then steps and sampling at GPT-2's size. See README.md.

Needs torch, transformers and the package; TRL and datasets where they are installed. Within four minutes.
"""

import argparse
import gc
import random
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from unittest.mock import patch

import limits
import numpy as np
import pandas as pd
import report
import torch
from measure import COMPLETION, random_language_model, sampling_flops, step_flops
from sampling import EXPERTS, our_sampling, their_sampling
from training import MINIBATCHES, prepared, random_pairs, repeated_step, trl_step
from turns import Found, best, facts, row, write

from mixdpo.method.capture import Captured, compiled
from mixdpo.method.fit import fit
from mixdpo.method.initial import build
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Experts, Gate, Method, Optimiser, Phase, Posterior, Relaxation, Weights
from mixdpo.method.triplets import Triplets

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
FROM_PYTHON_TOO = ("DPO", "Case 1", "Case 1, partition", "Case 1, frozen encoder", "Case 1, phases", "Case 2")
"""Methods whose curve is also made without replay."""
WAYS = ("compiled", "replayed", "from Python")


class Ordinary(Captured):
    """Every call is an ordinary one."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.ordinary = True


def from_python():
    """In this context, steps on CUDA are not replayed."""
    return patch("mixdpo.method.fit.Captured", Ordinary)


def trained(method: Method, model: Path, triplets: Triplets, batch: int, steps: int, runtime: Runtime) -> pd.DataFrame:
    """The curve of `steps` steps by the training loop of the package."""
    users = sorted({user for _, user in triplets.contexts}) if getattr(method.weights, "sees", "") == "user" else []
    objective = PreferenceObjective(build(method, model, runtime, seed=0, users=users), method, runtime)
    pairs = np.arange(len(triplets.groups)).reshape(-1, batch)
    objective.prepare(triplets, [triplets.rows(pairs[i % len(pairs)]) for i in range(steps)])
    how = {"optimiser": method.optimiser, "seed": 0, "runtime": runtime, "after_step": objective.after_step}
    with tempfile.TemporaryDirectory() as resume:
        return fit(objective, steps, objective.parts, objective.loss, resume=Path(resume), **how)


def parity(folder: Path, given: Namespace) -> list[dict]:
    """Largest difference of the loss over some steps of every method, from the same inputs."""
    size, steps = ("embedded", 8) if given.device == "cuda" else ("tiny", 2)
    model = random_language_model(size, folder / "parity")
    frame, triplets = random_pairs(size, 16, 2)
    frame["user"] = [f"user-{i % 3}" for i in range(len(frame))]
    triplets, rows = Triplets(frame, pd.DataFrame(triplets.reference, columns=["chosen", "rejected"])), []

    def losses(method: Method, device: str) -> np.ndarray:
        return trained(method, model, triplets, 4, steps, Runtime.choose(device, "fp32", 1))["loss"].to_numpy()

    for name, method in (METHODS | NOT_COMPARED).items():
        here, there = losses(method, "cpu"), losses(method, given.device)
        difference = float(np.abs(here - there).max())
        rows.append({"method": name, "difference": difference, "compared": name in METHODS})
        rows[-1]["agrees"] = difference < TOLERANCE
        if name in FROM_PYTHON_TOO:
            with from_python():
                plain = losses(method, given.device)
            rows[-1]["replay_difference"] = float(np.abs(plain - there).max())
            rows[-1]["replay_agrees"] = rows[-1]["replay_difference"] < TOLERANCE
    return rows


def interleave(calls: dict[str, Callable[[], object]], warm_up: int, repeats: int, rounds: int, device: str) -> Found:
    """Seconds per call, as means of `repeats` calls in a row; every round measures each once, in shuffled order."""
    rng, found = random.Random(0), {name: [] for name in calls}
    for call in calls.values():
        for _ in range(warm_up):
            call()
    for _ in range(rounds):
        for name in rng.sample(list(calls), len(calls)):
            finish(device)
            start = time.perf_counter()
            for _ in range(repeats):
                calls[name]()
            finish(device)
            found[name].append((time.perf_counter() - start) / repeats)
    return {name: {"seconds": np.array(times)} for name, times in found.items()}


def release() -> None:
    """Give back the memory of what was measured before."""
    gc.collect()
    torch.cuda.empty_cache()


def finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def with_flag(call: Callable[[], object], deterministic: bool) -> Callable[[], object]:
    """Ours asks torch for deterministic algorithms; a peer in the same process must not."""

    def flagged() -> None:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        call()

    return flagged


def peer_steps(folder: Path, pairs: int, given: Namespace) -> dict[str, Callable[[], object]]:
    """TRL's, where it is installed."""
    frame, _ = random_pairs(given.size, MINIBATCHES * pairs, 1)
    try:
        calls = {
            f"TRL, {attention}": trl_step(attention, folder / "model", frame, pairs, given.precision, given.device)
            for attention in ("sdpa", "eager")
        }
    except ImportError as error:
        print(f"TRL is left out: {error}")
        return {}
    return {name: with_flag(call, False) for name, call in calls.items()}


def measured_steps(
    folder: Path, pairs: int, given: Namespace, names: list[tuple[str, str]], peers: dict[str, Callable]
) -> Found:
    """Steps of our methods, each in one of WAYS, beside those of peers, and the products of a DPO step alone."""
    runtime, calls = Runtime.choose(given.device, given.precision, 1), dict(peers)
    _, triplets = random_pairs(given.size, MINIBATCHES * pairs, 1)
    with ExitStack() as stack:
        for name, way in names:
            objective = prepared(name, folder / "model", triplets, pairs, runtime)
            call = with_flag(repeated_step(objective), True)
            if way == "compiled":
                stack.enter_context(compiled(objective, given.device))
            with from_python() if way == "from Python" else nullcontext():
                call()  # where a step finds out how it will run
            calls[f"{name}, {way}"] = call
        calls["limit"] = limits.step(folder, given.size, pairs, given.precision, given.device)
        return interleave(calls, 6, given.repeats, 5, given.device)


def steps(folder: Path, pairs: int, given: Namespace) -> tuple[list[dict], dict[str, Found]]:
    """A DPO step beside TRL's, and steps of several experts beside our DPO."""
    precision, one, rows = given.precision, step_flops(given.size, pairs), []
    peers = peer_steps(folder, pairs, given)
    found = measured_steps(folder, pairs, given, [("DPO", way) for way in WAYS], peers)
    peer = best(found, list(peers) or ["DPO, from Python"])
    for way in WAYS:
        how = {"unit": "pairs/s", "amount": pairs, "flops": [one, one], "group": "dpo"}
        rows.append(row(f"{pairs} pairs, DPO, {way}", precision, found, f"DPO, {way}", peer, **how))
    del peers
    release()
    cases = {"Case 1, K = 3": {"heads": 3}, "Case 1, K = 3, frozen encoder": {"heads": 3, "frozen": True}}
    cases |= {"Case 2, K = 3": {"models": 3}}
    names = [(name, "replayed") for name in ("DPO", *cases)] + [("Case 1, K = 3", way) for way in WAYS[::2]]
    of_experts = measured_steps(folder, pairs, given, names, {})
    for name, way in names[1:]:
        flops = step_flops(given.size, pairs, **cases[name])
        how = {"unit": "ms", "flops": [flops, one], "flops_ratio": flops / one}
        how |= {"group": "experts", "peer_name": "DPO"}
        work = f"{pairs} pairs, {name}" + f", {way}" * (way != "replayed")
        rows.append(row(work, precision, of_experts, f"{name}, {way}", "DPO, replayed", **how))
    return rows, {f"{pairs} pairs, DPO": found, f"{pairs} pairs, experts": of_experts}


def sampling(folder: Path, batch: int, given: Namespace) -> tuple[list[dict], Found]:
    """Completions by transformers, by one expert and by three heads."""
    runtime, what = Runtime.choose(given.device, given.precision, 1), (folder / "model", batch)
    peers = {
        f"generate, {attention}": their_sampling(attention, *what, given.precision, given.device)
        for attention in ("sdpa", "eager")
    }
    if given.static:
        peers["generate, static"] = their_sampling("sdpa", *what, given.precision, given.device, cache="static")
    calls = {name: with_flag(call, False) for name, call in peers.items()}
    calls |= {name: with_flag(our_sampling(name, *what, runtime), True) for name in EXPERTS}
    calls["limit"] = limits.completions(folder, given.size, batch, given.precision, given.device)
    found, flops = interleave(calls, 2, 1, 5, given.device), [sampling_flops(given.size, batch)] * 2
    how = {"unit": "tokens/s", "amount": batch * COMPLETION, "flops": flops, "group": "sampling"}
    peer = best(found, list(peers))
    return [row(f"{batch} texts, {name}", given.precision, found, name, peer, **how) for name in EXPERTS], found


def options() -> Namespace:
    """`--device cpu` tries the script on a model of a few weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    parser.add_argument(
        "--static", action="store_true", help="generate with its static cache too, which compiles first"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = {
        "cuda": {"size": "full", "pairs": [22, 64], "batches": [256, 2048], "repeats": 10},
        "cpu": {"size": "tiny", "pairs": [2], "batches": [4], "repeats": 1},
    }
    return Namespace(**vars(given), **sizes[given.device], precision="bf16")


def main() -> None:
    given, start = options(), time.time()
    device = torch.cuda.get_device_name() if given.device == "cuda" else "processor"
    results = {"machine": facts(device, ["torch", "transformers", "trl"]), "rows": [], "limits": {}}
    times: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results["parity"] = parity(folder, given)
        print(report.parity(results), flush=True)
        random_language_model(given.size, folder / "model")
        for pairs in given.pairs:
            rows, found = steps(folder, pairs, given)
            release()
            results["rows"] += rows
            times |= found
            alone = np.median(found[f"{pairs} pairs, DPO"]["limit"]["seconds"])
            results["limits"][f"products, {pairs} pairs, GFLOP/s"] = step_flops(given.size, pairs) / 1e9 / alone
            print(f"{pairs} pairs: {time.time() - start:.0f} s", flush=True)
        for batch in given.batches:
            rows, times[f"{batch} texts"] = sampling(folder, batch, given)
            release()
            results["rows"] += rows
            print(f"{batch} texts: {time.time() - start:.0f} s", flush=True)
    minutes = (time.time() - start) / 60
    note = f"Size `{given.size}`; medians of 5 rounds; {minutes:.1f} minutes in all."
    results |= {"options": {"note": note}, "minutes": minutes, "times": times}
    if given.out:
        write(results, given.out)
    print(f"\n{report.machine(results)}\n\n{report.rows(results)}\n\n{report.limits(results)}")
    compared = [line for line in results["parity"] if line["compared"]]
    if wrong := [line["method"] for line in compared if not (line["agrees"] and line.get("replay_agrees", True))]:
        raise SystemExit(f"error: expected curves that agree to {TOLERANCE:g}, found others: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
