"""Device, precision and threads of a stage: never part of its spec, always part of its run record."""

import contextlib
import ctypes
import os
from dataclasses import dataclass

import torch

from mixdpo.errors import UserError


@dataclass(frozen=True)
class Runtime:
    """Device, precision and threads. Build it with `Runtime.choose`."""

    device: str
    precision: str
    threads: int

    @classmethod
    def choose(cls, device: str = "cpu", precision: str = "auto", threads: int = 1) -> "Runtime":
        """Resolve `auto`, set the threads and ask torch for deterministic algorithms.

        bf16 is chosen where the processor multiplies it natively (AVX512-BF16, AMX, or any GPU that torch
        sees). Weights and optimiser stay fp32; products run under autocast.
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
        # Filling new tensors takes time, and protects only code that reads memory before writing it; ours does not.
        torch.utils.deterministic.fill_uninitialized_memory = False
        keep_freed_memory()
        return cls(device, precision, threads)

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def attention(self) -> str:
        """The attention that was fastest in our measurements: eager for bf16 on a CPU, else fused.

        On CUDA it is `causal`, which mixdpo.method.language registers: fused attention that can be captured.
        """
        if self.device == "cuda":
            return "causal"
        return "eager" if self.precision == "bf16" else "sdpa"


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for reuse; otherwise every step would page in hundreds of megabytes again."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no separate mapping for a large tensor
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
