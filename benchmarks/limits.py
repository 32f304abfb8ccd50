"""What the machine allows: the matrix products of a piece of work with nothing around them, and a copy in memory."""

from collections.abc import Callable
from pathlib import Path

import torch
from measure import COMPLETION, PROMPT, SIZES

Shape = tuple[int, int, int]
"""Rows, columns of the input, columns of the output of a linear layer."""


def encoder(size: str, rows: int) -> list[Shape]:
    d = SIZES[size]["n_embd"]
    return [(rows, d, 3 * d), (rows, d, d), (rows, d, 4 * d), (rows, 4 * d, d)] * SIZES[size]["n_layer"]


def step(folder: Path, size: str, pairs: int, precision: str, device: str = "cpu") -> Callable[[], None]:
    """The products of a DPO step, forward and backward."""
    d, v = SIZES[size]["n_embd"], SIZES[size]["vocab_size"]
    shapes = [*encoder(size, 2 * pairs * (PROMPT + COMPLETION)), (2 * pairs * COMPLETION, d, v + -v % 64)]
    return products(shapes, precision, device, backward=True)


def completions(folder: Path, size: str, batch: int, precision: str, device: str = "cpu") -> Callable[[], None]:
    """The products of sampling `batch` completions: the prompts at once, then token by token."""
    d, v = SIZES[size]["n_embd"], SIZES[size]["vocab_size"]
    token = [*encoder(size, batch), (batch, d, v + -v % 64)]
    first = encoder(size, PROMPT * batch) + token[-1:]
    return products(first + token * (COMPLETION - 1), precision, device, backward=False)


def products(shapes: list[Shape], precision: str, device: str, backward: bool) -> Callable[[], None]:
    """A linear layer of each shape: its product, and with `backward` the gradients of its input and its weights.

    Tensors are there already, one set a shape.
    """
    made, dtype = {}, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    for n, k, m in dict.fromkeys(shapes):
        made[n, k, m] = [torch.randn(shape, device=device).to(dtype) for shape in ((n, k), (m, k), (n, m))]

    @torch.no_grad()
    def call() -> None:
        for shape in shapes:
            states, weight, grad = made[shape]
            states @ weight.T
            if backward:
                grad @ weight
                grad.T @ states

    return call


def copy(folder: Path, mebibytes: int) -> Callable[[], None]:
    """Copy a tensor of so many MiB, which are read once and written once."""
    source = torch.ones(mebibytes * 2**18)
    to = torch.empty_like(source)
    return lambda: to.copy_(source)
