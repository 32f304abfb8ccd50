"""The run record beside every artifact: what varies from run to run of the same work."""

import contextlib
import platform
import resource
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

CODE = ("mixdpo", "workflow", "Snakefile")
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "spacy", "pandas", "scipy", "numpy")


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def facts(runtime: Mapping, start: float, used: float) -> dict:
    """What varies from run to run of the same work: times (s), memory (MiB), machine, versions, commit.

    `seconds` is wall time since `start`, and `cpu_seconds` what `processor_time` counts since it was `used`. Memory is
    that of the whole process: a forked one counts the pages that it shares.

    `dirty` tells whether the code (tables and texts apart) differs from `commit`; both are None outside Git.
    """

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    commit = git("rev-parse", "HEAD") or None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start)),
        "seconds": round(time.time() - start, 2),
        "cpu_seconds": round(processor_time() - used, 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if runtime["device"] == "cuda" else "cpu",
        "precision": runtime["precision"],
        "threads": runtime["threads"],
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "commit": commit,
        "dirty": bool(git("status", "--porcelain", "--", *CODE)) if commit else None,
    }


def processor_time() -> float:
    """Processor time (s), user and system, of this process and of the children that it waited for."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
