"""Every measurement of speed and memory on a processor, as one table. See README.md."""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import report
from measure import COMPLETION, SIZES, sampling_flops, step_flops
from turns import QUIET, ROOT, Found, Variant, best, facts, features, git, options, processor, row, take_turns, write

PACKAGES = ["torch", "transformers", "trl"]
ATTENTION = ["sdpa", "eager"]


def run(variants: dict[str, tuple], given: Namespace, own_memory: Sequence[str] = ()) -> Found:
    """Measure variants, each a builder and its arguments, side by side."""
    started = {
        name: Variant(*variant, clock=given.clock, own_memory=name in own_memory) for name, variant in variants.items()
    }
    return take_turns(started, given.rounds, given.seconds)


def dpo(given: Namespace, precision: str) -> tuple[list[dict], Found]:
    """A DPO step, ours and TRL's, whose processes keep glibc's defaults, and once more have our setting."""
    rows, all_found = [], {}
    for size in [given.size, "embedded"]:
        what = (size, given.batch, precision)
        peers = {f"TRL, {attention}": ("training.trl", attention, *what) for attention in ATTENTION}
        kept = {f"kept, {name}": variant for name, variant in peers.items()} if size == given.size else {}
        ours = {"ours": ("training.ours", "DPO", *what), "limit": ("limits.step", *what)}
        found = run(ours | peers | kept, given, own_memory=list(kept))
        flops, name = [step_flops(size, given.batch)] * 2, "DPO" if size == given.size else f"DPO, size {size}"
        how = {"unit": "pairs/s", "amount": given.batch, "flops": flops}
        rows.append(row(name, precision, found, "ours", best(found, list(peers)), **how))
        if kept:
            rows.append(row(f"{name}, peer with our glibc", precision, found, "ours", best(found, list(kept)), **how))
            leanest = best(found, list(peers), "memory")
            rows.append(row(f"{name}, peak memory", precision, found, "ours", leanest, "MiB"))
        all_found |= {f"{size}: {name}": figures for name, figures in found.items()}
    return rows, all_found


def experts(given: Namespace, precision: str) -> tuple[list[dict], Found]:
    """Several experts beside our own DPO: time beside the ratio of FLOPs, and peak memory."""
    cases = {
        "Case 1, K = 3": {"heads": 3},
        "Case 1, K = 3, in two parts": {"heads": 3},
        "Case 1, K = 3, frozen encoder": {"heads": 3, "frozen": True},
        "Case 2, K = 3": {"models": 3},
    }
    what = (given.size, given.batch, precision)
    variants = {name: ("training.ours", name, *what) for name in ["DPO", *cases]}
    found, one = run(variants | {"limit": ("limits.step", *what)}, given), step_flops(given.size, given.batch)
    rows = []
    for name, case in cases.items():
        flops = step_flops(given.size, given.batch, **case)
        more = {"flops": [flops, one], "flops_ratio": flops / one}
        rows.append(row(name, precision, found, name, "DPO", "ms", **more))
    rows += [row(f"{name}, peak memory", precision, found, name, "DPO", "MiB") for name in cases]
    return rows, found


def sampling(given: Namespace, precision: str) -> tuple[list[dict], Found]:
    """Sampling by one expert and by a mixture, both beside `generate` of transformers."""
    rows, all_found = [], {}
    for batch in given.batches:
        what = (given.size, batch, precision)
        peers = {f"generate, {attention}": ("sampling.transformers", attention, *what) for attention in ATTENTION}
        kept = {"kept, generate, eager": peers["generate, eager"]} if batch == min(given.batches) else {}
        ours = {name: ("sampling.ours", name, *what) for name in ("one expert", "Case 1, K = 3, by token")}
        found = run(ours | peers | kept | {"limit": ("limits.completions", *what)}, given, own_memory=list(kept))
        flops = [sampling_flops(given.size, batch)] * 2
        how = {"unit": "tokens/s", "amount": batch * COMPLETION, "flops": flops}
        for name in ours:
            rows.append(row(f"{batch} texts, {name}", precision, found, name, best(found, list(peers)), **how))
        for peer in kept:
            name = f"{batch} texts, peer with our glibc"
            rows.append(row(name, precision, found, "one expert", peer, **how))
        all_found |= {f"{batch}: {name}": figures for name, figures in found.items()}
    return rows, all_found


def operators(given: Namespace) -> dict[str, dict]:
    """Milliseconds a DPO step by kind of operator: of the code here and, with `--before`, of that commit."""
    script, times = Path(__file__).with_name("operators.py"), {}
    with tempfile.TemporaryDirectory() as folder:
        trees = {given.before: Path(folder) / "tree"} if given.before else {}
        for commit, tree in trees.items():
            git("worktree", "add", "--detach", str(tree), commit)
        try:
            for precision in given.precisions:
                for name, tree in (trees | {"now": ROOT}).items():
                    path = os.pathsep.join([str(tree), str(tree / "benchmarks")])
                    command = [sys.executable, "-P", str(script), given.size, str(given.batch), precision]
                    printed = subprocess.check_output(command, text=True, env=os.environ | {"PYTHONPATH": path})
                    times[f"{precision}, {name}"] = json.loads(printed.splitlines()[-1])
        finally:
            for tree in trees.values():
                git("worktree", "remove", "--force", str(tree))
    return times


def machine_limits(given: Namespace, times: dict[str, Found]) -> dict[str, float]:
    """GFLOP/s of the products of our DPO step, alone, and GB/s of a copy of 256 MiB, read and written."""
    copied = run({"copy": ("limits.copy", 256)}, given)["copy"]["seconds"]
    limits = {"copy, GB/s": 2 * 256 * 2**20 / 1e9 / float(np.median(copied))}
    for name, found in times.items():
        if name.startswith("experts"):
            seconds = np.median(found["limit"]["seconds"])
            limits[f"products, {name.split()[1]}, GFLOP/s"] = step_flops(given.size, given.batch) / 1e9 / seconds
    return limits


GROUPS = {"dpo": dpo, "experts": experts, "sampling": sampling}


def main() -> None:
    parser = options(__doc__, list(SIZES))
    parser.add_argument("--batch", type=int, default=16, help="pairs of a step")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256], help="completions sampled together")
    parser.add_argument("--only", nargs="+", choices=[*GROUPS, "operators"], default=[*GROUPS, "operators"])
    parser.add_argument("--before", help="a commit whose operators stand beside those of now")
    name = "-".join(processor().lower().replace("(r)", "").replace("(tm)", "").split())
    parser.add_argument("--out", type=Path, default=ROOT / f"benchmarks/measured/{name}.json")
    given, start = parser.parse_args(), time.time()
    os.environ |= QUIET | {"OMP_NUM_THREADS": str(given.threads)}
    sys.path.insert(1, str(ROOT))  # processes get this path too, so they measure the package that lies here
    machine = facts(processor(), PACKAGES) | {"features": features(), "cores": os.cpu_count()}
    results = {
        "machine": machine,
        "options": {key: value for key, value in vars(given).items() if key != "out"},
        "rows": [],
    }
    times: dict[str, Found] = {}
    for group in (name for name in GROUPS if name in given.only):
        for precision in given.precisions:
            print(f"{time.time() - start:4.0f} s: {group}, {precision}", file=sys.stderr)
            rows, times[f"{group} {precision}"] = GROUPS[group](given, precision)
            results["rows"] += [{"group": group} | line for line in rows]
    results["limits"] = machine_limits(given, times)
    if "operators" in given.only:
        results["operators"] = operators(given)
    write(results | {"minutes": (time.time() - start) / 60, "times": times}, given.out)
    print(report.everything(given.out))
    report.main()


if __name__ == "__main__":
    main()
