"""Variants that are measured in turns, each in a process of its own; facts of the machine. Imports no torch."""

import argparse
import importlib
import json
import platform
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 2.0
"""Seconds: a call that takes less is made twice before the first turn, others once."""
QUIET = {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
"""Environment of the processes, whose progress bars and warnings would bury the table."""
ROOT = Path(__file__).parent.parent
Found = dict[str, dict]
"""Of each variant, `seconds` per call by round, and `memory`, its peak in MiB above that before it was built."""


class Variant:
    """A process of its own, with its own allocator, threads and flags, that repeats one call on command.

    It calls `MODULE.FUNCTION`, which `builder` names, once; what that returns is the call that is measured.
    """

    def __init__(self, builder: str, *arguments: object, clock: str = "wall", own_memory: bool = False):
        """`own_memory` sets glibc as our runtime does, before anything is built."""
        context = get_context("spawn")
        self.pipe, end = context.Pipe()
        self.name = f"{builder}{arguments}"
        self.process = context.Process(target=_serve, args=(end, builder, arguments, clock, own_memory), daemon=True)
        self.process.start()
        end.close()

    def answer(self) -> dict:
        """What the process says next. Raises `SystemExit` if it has ended instead."""
        try:
            return self.pipe.recv()
        except EOFError:
            raise SystemExit(f"error: expected {self.name} to run, found that its process ended; see above") from None

    def run(self, seconds: float) -> dict:
        """Repeat the call for at least so long: seconds per call, and the peak of memory so far."""
        self.pipe.send(seconds)
        return self.answer()

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()


def _serve(pipe: Connection, builder: str, arguments: tuple, clock: str, own_memory: bool) -> None:
    module, function = builder.split(".")
    build = getattr(importlib.import_module(module), function)
    if own_memory:
        importlib.import_module("mixdpo.method.runtime").keep_freed_memory()
    before = _mebibytes("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        call = build(Path(folder), *arguments)
        start = time.perf_counter()
        call()
        if time.perf_counter() - start < WARM_UP:
            call()
        pipe.send({"ready": True})
        while (seconds := pipe.recv()) is not None:
            each = repeated(call, seconds, CLOCKS[clock])
            pipe.send({"seconds": each, "memory": _mebibytes("VmHWM") - before})


def repeated(call: Callable[[], object], seconds: float, now: Callable[[], float]) -> float:
    """Seconds per call of as many calls as take at least `seconds`."""
    calls, start = 0, now()
    while calls == 0 or now() - start < seconds:
        call()
        calls += 1
    return (now() - start) / calls


def _mebibytes(field: str) -> float:
    """Of this process: VmRSS, the memory it has now, or VmHWM, the most it had. NaN where Linux's /proc is missing."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), float("nan"))


def take_turns(variants: dict[str, Variant], rounds: int, seconds: float) -> Found:
    """Every round runs each variant once, in shuffled order, and only one at a time. Processes end afterwards."""
    rng, found = random.Random(0), {name: [] for name in variants}
    for variant in variants.values():
        variant.answer()
    for _ in range(rounds):
        for name in rng.sample(list(variants), len(variants)):
            found[name].append(variants[name].run(seconds))
    for variant in variants.values():
        variant.end()
    return {
        name: {"seconds": np.array([a["seconds"] for a in answers]), "memory": answers[-1]["memory"]}
        for name, answers in found.items()
    }


def features() -> list[str]:
    """The vector and matrix units of the processor that torch makes use of."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*: (.*)", info.read_text(), re.MULTILINE) if info.exists() else None
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if found and name in found[1].split()]


def native_precisions() -> list[str]:
    """bf16 too where the processor multiplies it natively, as `Runtime.choose` has it."""
    return ["fp32", "bf16"] if {*features()} & {"avx512_bf16", "amx_bf16"} else ["fp32"]


def processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def git(*words: str) -> str:
    """What a command of git prints about the checkout that this file lies in."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def facts(device: str, packages: list[str]) -> dict:
    """What a figure depends on: the device, the versions, the commit (+ if files differ from it), the date."""
    try:
        commit = git("rev-parse", "--short", "HEAD").strip()
        commit += "+" * bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"  # files without their history
    return {
        "device": device,
        "versions": {name: version(name) for name in packages if find_spec(name)},
        "commit": commit,
        "date": date.today().isoformat(),
    }


def best(found: Found, names: Sequence[str], figure: str = "seconds") -> str:
    return min(names, key=lambda name: np.median(found[name][figure]))


def row(work: str, precision: str, found: Found, ours: str, peer: str, unit: str, amount: float = 1, **more) -> dict:
    """A line of the table: what `unit` says of two variants, and its ratio. `amount` of work is done in a call.

    With `flops`, those of a call of ours and of "limit", `share` is the part of our time that the products of the limit
    would take alone.
    """
    a, b = (found[name]["seconds"] for name in (ours, peer))
    if unit == "MiB":
        a, b = (np.array([found[name]["memory"]]) for name in (ours, peer))
    elif unit == "ms":
        a, b = 1000 * a, 1000 * b
    else:
        a, b = amount / a, amount / b
    line = {"work": work, "precision": precision, "ours": float(np.median(a)), "peer": float(np.median(b))}
    line |= {"peer_name": peer.removeprefix("kept, "), "unit": unit, "ratio": np.quantile(a / b, [0, 0.5, 1]).tolist()}
    if flops := more.pop("flops", None):
        alone = found["limit"]["seconds"] * flops[0] / flops[1]
        line["share"] = float(np.median(alone / found[ours]["seconds"]))
    return line | more


def write(results: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, default=_plain) + "\n")


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def options(description: str, sizes: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=sizes, default="small")
    parser.add_argument("--rounds", type=int, default=4, help="every round measures each variant once")
    parser.add_argument("--seconds", type=float, default=0.5, help="each turn repeats its variant at least this long")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a busy machine")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=native_precisions())
    return parser
