"""Facts of the machine a stage runs on: never part of a spec, always part of its run record."""

import contextlib
import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from mixdpo.errors import UserError

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "spacy", "pandas", "scipy", "numpy")


@dataclass(frozen=True)
class Runtime:
    """Where and how precisely to compute. Build it with `Runtime.choose`."""

    device: str
    precision: str
    threads: int

    @classmethod
    def choose(cls, device: str = "cpu", precision: str = "auto", threads: int = 1) -> "Runtime":
        """Resolve `auto`, set the threads and ask torch for deterministic algorithms.

        bf16 is chosen where the processor multiplies it natively (AVX512-BF16, AMX or any GPU lent to torch):
        weights and optimiser stay fp32, products run under autocast.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("runtime.device: expected a CUDA device, found none; set runtime.device to cpu or auto")
        if precision == "auto":
            native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            precision = "bf16" if device == "cuda" or native else "fp32"
        torch.set_num_threads(threads)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
        return cls(device, precision, threads)

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def attention(self) -> str:
        """The attention that measured fastest: fused on a GPU, eager for bf16 on a CPU."""
        return "eager" if self.device == "cpu" and self.precision == "bf16" else "sdpa"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def facts(runtime: Runtime, start: float) -> dict:
    """What varies from run to run of the same work: clock (s), memory (MiB), machine, versions, commit."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start)),
        "seconds": round(time.time() - start, 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if runtime.device == "cuda" else "cpu",
        "precision": runtime.precision,
        "threads": runtime.threads,
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "commit": git("rev-parse", "HEAD") or None,
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
    }


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
