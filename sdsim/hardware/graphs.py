"""Captured CUDA graphs by key, and the GPU time of a sequence of calls."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
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
CYCLES_PER_S = 2e9


class Graphs:
    """Calls captured once and replayed; on a CPU they run as they are.

    A call is captured at the *after*-th use of its key, since that takes as long as tens of replays; until then it runs
    launch by launch. The graphs share one pool of memory: they run one after another, and what outlives a call lies in
    buffers from outside. The least recently used go when there are more than KEPT.
    """

    def __init__(self, device: str, after: int = 1) -> None:
        self.captured = 0
        self.seconds = 0.0
        """Spent on capturing, compilation included."""
        self._after, self._uses = after, Counter[Hashable]()
        self._pool = torch.cuda.graph_pool_handle() if device == "cuda" else None
        self._kept: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Call]) -> Callable[[], None]:
        """Return the replay of what *make* makes for *key*, or what launches it while the key is new."""
        found = self._kept.get(key)
        if found is None:
            started = time.perf_counter()
            call = make()
            call(1)  # compiles before anything is captured or timed
            self._uses[key] += 1
            if self._uses[key] < self._after:
                self.seconds += time.perf_counter() - started
                return Launched(call)
            found = self._kept[key] = partial(call, None) if self._pool is None else self._capture(call)
            self.captured += 1
            self.seconds += time.perf_counter() - started
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return found

    def _capture(self, call: Call) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            call(None)
        graph.replay()  # the first replay uploads the graph
        torch.cuda.synchronize()
        return _Captured(graph, call)


class Launched:
    """A call that the host launches kernel by kernel."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self) -> None:
        self._call(None)


class _Captured:
    """A graph, and the call whose tensors it reads."""

    def __init__(self, graph: torch.cuda.CUDAGraph, call: Call) -> None:
        self._graph, self._call = graph, call

    def __call__(self) -> None:
        self._graph.replay()


class Timer:
    """The GPU time of sequences of calls: the GPU is held back until the host has launched all of them."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._lead_s = dict.fromkeys((True, False), LEAD_CYCLES / CYCLES_PER_S)

    def __call__(self, calls: Sequence[Callable[[], None]]) -> tuple[list[float], float]:
        """Run *calls*; return the seconds of each on the GPU, and when the host had launched all of them.

        From the first kernel of a call to the first of the next, or to the last of all: they add up to the whole.
        Calls that the host was too slow for are run again with a longer lead: they must bear that.
        """
        if self._device != "cuda":
            marks = [time.perf_counter()]
            for call in calls:
                call()
                marks.append(time.perf_counter())
            return [b - a for a, b in pairwise(marks)], marks[0]
        captured = not any(isinstance(call, Launched) for call in calls)
        while True:
            seconds, started, launched = _timed(calls, self._lead_s[captured])
            if launched - started < self._lead_s[captured]:
                return seconds, launched
            self._lead_s[captured] = 1.5 * (launched - started)


def _timed(calls: Sequence[Callable[[], None]], lead_s: float) -> tuple[list[float], float, float]:
    """Run *calls* behind a wait of *lead_s*; return the seconds of each, and the host's times of start and end."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
    started = time.perf_counter()
    torch.cuda._sleep(int(lead_s * CYCLES_PER_S))
    events[0].record()
    for call, event in zip(calls, events[1:], strict=True):
        call()
        event.record()
    launched = time.perf_counter()
    events[-1].synchronize()
    return [1e-3 * float(a.elapsed_time(b)) for a, b in pairwise(events)], started, launched
