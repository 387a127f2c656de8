"""Record a train step once and replay it: one launch on a GPU instead of hundreds.

At small shapes the processor cannot launch a step's operations as fast as a GPU executes them. A
replay repeats the same operations on the same memory. A step must therefore read all that changes,
the sequences and the learning rate, from tensors, and decide nothing in Python.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from fundamentallm.errors import one_line

LOG = logging.getLogger(__name__)

WARMUP_CALLS = 3
"""Steps to take before recording one, so that libraries can initialize."""

Update = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Function from a step's sequences, (N, T + 1), to its loss and gradient norm."""


class Graph(Protocol):
    """A recording of operations."""

    def recording(self) -> AbstractContextManager[object]:
        """Record operations instead of executing them."""
        ...

    def replay(self) -> None:
        """Execute the recorded operations."""
        ...


class CudaGraph:
    """A `Graph` of CUDA."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.graph = torch.cuda.CUDAGraph()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Implement `Graph`."""
        # By default torch records the first GPU, whichever one the step runs on.
        stream = torch.cuda.Stream(self.device)
        before = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(self.graph, stream=stream):
                yield
        finally:  # torch stays on the other stream if a recording fails
            torch.cuda.set_stream(before)

    def replay(self) -> None:
        """Implement `Graph`."""
        with torch.cuda.device(self.device):
            self.graph.replay()


class GraphedUpdate:
    """Wrap `update`: replay a recording from the fourth call on, if it can be recorded.

    Every call updates once. Only the recording waits for the device.
    """

    def __init__(
        self, update: Update, make_graph: Callable[[torch.device], Graph] = CudaGraph
    ) -> None:
        self.update = update
        self.make_graph = make_graph
        self.taken = 0
        self.side: torch.cuda.Stream | None = None
        self.graph: Graph | None = None
        self.refused = ""
        """Reason why the update cannot be recorded; it is not tried again."""

    def __call__(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Update once; return the loss and gradient norm, which the caller may keep."""
        if self.graph is None and self.taken >= WARMUP_CALLS and not self.refused:
            self._record(windows)
        if self.graph is None:
            results = self._aside(windows)
            self.taken += 1  # a step that ran out of memory has not created its state
            return results
        self.windows.copy_(windows)
        self.graph.replay()
        loss, norm = self.results
        return loss.clone(), norm.clone()  # the next replay writes into the same memory

    def forget(self) -> bool:
        """Free the recording and its memory; return whether there was one."""
        if self.graph is None:
            return False
        self.graph, self.refused = None, "its memory was needed elsewhere"
        del self.windows, self.results
        return True

    def _record(self, windows: Tensor) -> None:
        graph = self.make_graph(windows.device)
        self.windows = windows.clone()
        try:
            with graph.recording():
                self.results = self.update(self.windows)
            self.graph = graph
        except RuntimeError as error:  # may be out of memory: without a recording the step fits
            self.refused = one_line(error, 200)
            LOG.warning(
                "steps could not be recorded (%s); training continues without recording",
                self.refused,
            )

    def _aside(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Update on a separate stream, since autograd stays on the stream where it first ran.

        The main stream cannot be recorded.
        """
        if windows.device.type != "cuda":
            return self.update(windows)
        main = torch.cuda.current_stream(windows.device)
        if self.side is None:  # one for all steps: each stream keeps memory of its own
            self.side = torch.cuda.Stream(windows.device)
        self.side.wait_stream(main)
        with torch.cuda.stream(self.side):
            results = self.update(windows)
        main.wait_stream(self.side)
        return results
