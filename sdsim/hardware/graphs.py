"""Captured CUDA graphs by key, and the GPU time of a sequence of calls."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import pairwise

import torch

Call = Callable[[int | None], None]
"""Runs a part of a step: all layers for None, or only as many as given."""
KEPT = 256
"""Graphs kept: a few megabytes of driver memory each."""
LEAD_CYCLES = 1_000_000
"""GPU cycles, half a millisecond, that hold the GPU back until the host has launched the first graph."""


class Graphs:
    """Calls captured once and replayed; on a CPU they run as they are.

    The graphs share one pool of memory: they run one after another, and what outlives a call lies in buffers from
    outside. The least recently used go when there are more than KEPT.
    """

    def __init__(self, device: str) -> None:
        self.captured = 0
        self.seconds = 0.0
        """Spent on capturing, compilation included."""
        self._pool = torch.cuda.graph_pool_handle() if device == "cuda" else None
        self._kept: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Call]) -> Callable[[], None]:
        """Return the replay of what *make* makes for *key*, captured now if it is new."""
        found = self._kept.get(key)
        if found is None:
            started = time.perf_counter()
            call = make()
            found = self._kept[key] = partial(call, None) if self._pool is None else self._capture(call)
            self.captured += 1
            self.seconds += time.perf_counter() - started
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return found

    def _capture(self, call: Call) -> Callable[[], None]:
        call(1)  # compiles outside the capture
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            call(None)
        graph.replay()  # the first replay uploads the graph
        torch.cuda.synchronize()
        return _Captured(graph, call)


class _Captured:
    """A graph, and the call whose tensors it reads."""

    def __init__(self, graph: torch.cuda.CUDAGraph, call: Call) -> None:
        self._graph, self._call = graph, call

    def __call__(self) -> None:
        self._graph.replay()


def timed(calls: Sequence[Callable[[], None]], device: str) -> tuple[list[float], float]:
    """Run *calls*; return the seconds of each on the GPU, and when the host had launched all of them.

    From the first kernel of a call to the first of the next, or to the last of all: they add up to the whole.
    """
    if device != "cuda":
        marks = [time.perf_counter()]
        for call in calls:
            call()
            marks.append(time.perf_counter())
        return [b - a for a, b in pairwise(marks)], marks[0]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
    torch.cuda._sleep(LEAD_CYCLES)
    events[0].record()
    for call, event in zip(calls, events[1:], strict=True):
        call()
        event.record()
    launched = time.perf_counter()
    events[-1].synchronize()
    return [1e-3 * float(a.elapsed_time(b)) for a, b in pairwise(events)], launched
