"""What both benchmarks share: model shapes, turns of every variant in shuffled order, tables, facts of the machine."""

import argparse
import os
import platform
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from tabulate import tabulate
from transformers import GPT2Config, GPT2LMHeadModel

SIZES = {  # GPT-2 shapes
    "embedded": {"n_layer": 2, "n_embd": 128, "n_head": 4, "vocab_size": 2000},
    "small": {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 8000},
    "full": {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257},
}
PROMPT, COMPLETION = 8, 48  # tokens
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def options(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rounds", type=int, default=7, help="every round measures each variant once")
    parser.add_argument("--seconds", type=float, default=3.0, help="each turn repeats its variant at least this long")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a busy machine")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=native_precisions())
    return parser


def native_precisions() -> list[str]:
    """bf16 too where the processor multiplies it natively, as `Runtime.choose` has it."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return ["fp32", "bf16"] if native else ["fp32"]


def random_language_model(size: str, folder: Path) -> Path:
    """A folder with random weights of this shape; the last token of the vocabulary is end-of-text."""
    torch.manual_seed(0)
    end = SIZES[size]["vocab_size"] - 1
    config = GPT2Config(**SIZES[size], n_positions=128, bos_token_id=end, eos_token_id=end)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def interleave(variants: dict[str, Callable], given: argparse.Namespace) -> dict[str, np.ndarray]:
    """Seconds per call of each variant, one figure a round, after two calls to warm up."""
    rng, clock, times = random.Random(0), CLOCKS[given.clock], {name: [] for name in variants}
    for call in variants.values():
        call(), call()
    for _ in range(given.rounds):
        for name in rng.sample(list(variants), len(variants)):
            calls, start = 0, clock()
            while calls == 0 or clock() - start < given.seconds:
                variants[name]()
                calls += 1
            times[name].append((clock() - start) / calls)
    return {name: np.array(values) for name, values in times.items()}


def spread(values: np.ndarray, digits: int) -> str:
    low, middle, high = (f"{value:,.{digits}f}" for value in np.quantile(values, [0, 0.5, 1]))
    return f"{middle} [{low} to {high}]"


def print_table(title: str, times: dict[str, np.ndarray], work: int, unit: str, cost: bool = False) -> None:
    """`work` units a call; the ratio, round by round, to row one is of speed, or of time with `cost`."""
    first, rows = next(iter(times.values())), []
    for name, seconds in times.items():
        ratio = seconds / first if cost else first / seconds
        rows.append([name, spread(work / seconds, 1), spread(1000 * seconds, 1), spread(ratio, 2)])
    print_rows(title, rows, ["variant", f"{unit}/s", "ms", f"× {'time' if cost else 'speed'} of row one"])


def print_rows(title: str, rows: list, headers: list[str]) -> None:
    print(f"\n**{title}**\n\n{tabulate(rows, headers, tablefmt='pipe', disable_numparse=True)}", flush=True)


def print_machine(given: argparse.Namespace) -> None:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    flags = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f" {flag} " in text]
    print(
        f"{model[1] if model else platform.processor()} ({', '.join(flags)}), {given.threads} of {os.cpu_count()} "
        f"threads, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"precisions {', '.join(given.precisions)}. Size {given.size}: {SIZES[given.size]}. "
        f"Median [min to max] of {given.rounds} rounds of {given.seconds} s a variant, {given.clock} clock."
    )
