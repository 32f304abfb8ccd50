"""Less Python and fewer kernels in a step on CUDA: graphs that are replayed, and layers that are compiled."""

import contextlib
import importlib.util
import shutil
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

WARM_UP = 3
"""Calls before the capture, in which libraries choose their kernels and set up their workspaces."""


class Captured:
    """A function without arguments that works on tensors which stay where they are, replayed from a CUDA graph.

    Every call runs the function exactly once. The first WARM_UP calls are ordinary ones on a side stream, the next
    captures the graph, and from there on calls replay it and return what the captured function returned, the same
    tensors filled anew. Graphs of one `pool`, a `torch.cuda.graph_pool_handle()`, share memory, if the results of one
    are not read after another has run. Without CUDA, or where the function cannot be captured because it asks the
    device for a value, every call is an ordinary one.
    """

    def __init__(self, function: Callable[[], object], pool=None):
        self.function, self.pool, self.calls = function, pool, 0
        self.graph, self.result, self.ordinary = None, None, not torch.cuda.is_available()

    def __call__(self):
        if not self.ordinary and self.graph is None and self.calls >= WARM_UP:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
            return self.result
        if self.ordinary:
            return self.function()
        self.calls += 1
        return self._warm_up()

    def _warm_up(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = self.function()
        torch.cuda.current_stream().wait_stream(side)
        return result

    def _capture(self) -> None:
        """Record the function, which runs nothing yet."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                self.result = self.function()
            self.graph = graph
        except RuntimeError as error:
            warnings.warn(f"CUDA graph: capture failed, so every step runs from Python: {error}", stacklevel=3)
            self.ordinary = True


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of all models of transformers in `model`."""
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    kinds = {kind for part in parts for kind in part._no_split_modules or ()}
    return [module for module in model.modules() if type(module).__name__ in kinds]


@contextlib.contextmanager
def compiled(model: nn.Module, device: str = "cuda") -> Iterator[None]:
    """In the context, forward and backward of the layers are compiled, once for all layers and lengths.

    Compiling whole steps takes minutes; compiling layers takes seconds and covers most of the small kernels. Without a
    C compiler, and on CUDA without triton, layers run as they are, as does one that cannot be compiled.
    """
    able = any(map(shutil.which, ("cc", "gcc", "clang"))) and (device == "cpu" or importlib.util.find_spec("triton"))
    layers = layers_of(model) if able else []
    with torch._dynamo.config.patch(suppress_errors=True):
        try:
            for layer in layers:
                layer.compile(dynamic=True)
            yield
        finally:
            for layer in layers:
                layer._compiled_call_impl = None
