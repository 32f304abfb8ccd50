"""CUDA graphs: a step of fixed shapes that is recorded once and replayed without Python."""

import warnings
from collections.abc import Callable, Sequence

import torch

WARM_UP = 3
"""Calls before the capture, in which libraries choose their kernels and set up their workspaces."""


class Captured:
    """A function without arguments that works on tensors which stay where they are, replayed from a CUDA graph.

    Every call runs the function exactly once. The first WARM_UP calls are ordinary ones on a side stream, the next
    captures the graph, and from there on calls replay it and return what the captured function returned, the same
    tensors filled anew. `generators` are those that the function draws from. Without CUDA, or where the function cannot
    be captured because it asks the device for a value, every call is an ordinary one.
    """

    def __init__(self, function: Callable[[], object], generators: Sequence[torch.Generator] = ()):
        self.function, self.generators, self.calls = function, generators, 0
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
        for generator in self.generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph):
                self.result = self.function()
            self.graph = graph
        except RuntimeError as error:
            warnings.warn(f"CUDA graph: capture failed, so every step runs from Python: {error}", stacklevel=3)
            self.ordinary = True
