"""A step recorded once and replayed: on a GPU, one launch in place of hundreds.

At small shapes the processor cannot launch a step's operations as fast as a GPU does them. What is
replayed are the very operations on the very memory, so a step must read all that changes, the
sequences and the learning rate, from tensors, and decide nothing in Python.
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
"""Steps that are taken as they are before one is recorded: libraries set themselves up in them."""

Update = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From a step's sequences, (N, T + 1), to its loss and the gradient's norm."""


class Graph(Protocol):
    """Records operations, and does them again."""

    def recording(self) -> AbstractContextManager[object]:
        """Within, operations are recorded and not done."""
        ...

    def replay(self) -> None:
        """Do them."""
        ...


class CudaGraph:
    """A `Graph` of the GPU's own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.graph = torch.cuda.CUDAGraph()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """As `Graph` says."""
        # By itself torch records what the first GPU does, whichever one the step runs on.
        stream = torch.cuda.Stream(self.device)
        before = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(self.graph, stream=stream):
                yield
        finally:  # torch leaves the other stream on where a recording fails
            torch.cuda.set_stream(before)

    def replay(self) -> None:
        """As `Graph` says."""
        with torch.cuda.device(self.device):
            self.graph.replay()


class GraphedUpdate:
    """`update`, from its fourth call on by replaying; where it cannot be recorded, as it is.

    Every call updates once, whichever way. Nothing waits for the device but the one recording.
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
        """Why the update cannot be recorded; then it never is."""

    def __call__(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """As `update`; the results are the caller's to keep."""
        if self.graph is None and self.taken >= WARMUP_CALLS and not self.refused:
            self._record(windows)
        if self.graph is None:
            results = self._aside(windows)
            self.taken += 1  # a step that memory ran out in has not made its state
            return results
        self.windows.copy_(windows)
        self.graph.replay()
        loss, norm = self.results
        return loss.clone(), norm.clone()  # the next replay writes into the same memory

    def forget(self) -> bool:
        """Give up the recording, and with it the memory that it keeps; whether there was one."""
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
        except RuntimeError as error:  # also for want of memory: as it is, the step is known to fit
            self.refused = one_line(error, 200)
            LOG.warning("steps could not be recorded (%s); they go on as they are", self.refused)

    def _aside(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Update on a stream of its own, as autograd keeps to the one where it first ran.

        The main one cannot be recorded.
        """
        if windows.device.type != "cuda":
            return self.update(windows)
        main = torch.cuda.current_stream(windows.device)
        if self.side is None:  # one for all steps: memory is kept for each stream apart
            self.side = torch.cuda.Stream(windows.device)
        self.side.wait_stream(main)
        with torch.cuda.stream(self.side):
            results = self.update(windows)
        main.wait_stream(self.side)
        return results
