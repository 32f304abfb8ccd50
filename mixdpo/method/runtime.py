"""Where and how precisely a stage computes: never part of a spec, always part of its run record."""

import contextlib
import ctypes
import os
from dataclasses import dataclass

import torch

from mixdpo.errors import UserError


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
        # Filling new tensors costs time and guards code that reads before it writes: none of ours does.
        torch.utils.deterministic.fill_uninitialized_memory = False
        keep_freed_memory()
        return cls(device, precision, threads)

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def attention(self) -> str:
        """The attention that measured fastest: fused on a GPU, eager for bf16 on a CPU."""
        return "eager" if self.device == "cpu" and self.precision == "bf16" else "sdpa"


def keep_freed_memory() -> None:
    """Tell glibc to use freed memory again, not to return it: every step would page hundreds of megabytes in anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large tensor
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
