"""Captured CUDA graphs by key, and the GPU time of a sequence of calls."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch

Call = Callable[[int | None], None]
"""Runs a part of a step: all layers for None, or only as many as given."""
KEPT = 256
"""Graphs kept: a few megabytes of driver memory each."""
LEAST_LEAD_S, MOST_LEAD_S = 5e-4, 3e-2
"""How long the GPU is held back while the host launches. A stream takes some 1,000 launches before the host has to wait
for the GPU, so a longer lead than those take gains nothing.
"""
DECAY = 0.98
"""Of the lead, after a step that was launched in time."""
SLACK_S = 1e-4
"""Until the host sees that the GPU is through, at most."""
HOPELESS_S = 2.0
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
            if not self._uses[key]:
                call(1)  # compiles before anything is captured or timed
            self._uses[key] += 1
            self.seconds += time.perf_counter() - started
            if self._uses[key] < self._after:
                return Launched(call, partial(self._capture, key, call))
            return self._capture(key, call)
        self._kept.move_to_end(key)
        return found

    def _capture(self, key: Hashable, call: Call) -> Callable[[], None]:
        started = time.perf_counter()
        found = self._kept[key] = partial(call, None) if self._pool is None else self._graph(call)
        self.captured += 1
        self.seconds += time.perf_counter() - started
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found

    def _graph(self, call: Call) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            call(None)
        graph.replay()  # the first replay uploads the graph
        torch.cuda.synchronize()
        return _Captured(graph, call)


class Launched:
    """A call that the host launches kernel by kernel, and the way to capture it after all."""

    head_start = 0.25
    """Of its launching, before its GPU time begins: its kernels are alike, so the host stays ahead of what follows."""

    def __init__(self, call: Call, capture: Callable[[], Callable[[], None]]) -> None:
        self._call, self.capture = call, capture

    def __call__(self) -> None:
        self._call(None)


class _Captured:
    """A graph, and the call whose tensors it reads."""

    def __init__(self, graph: torch.cuda.CUDAGraph, call: Call) -> None:
        self._graph, self._call = graph, call

    def __call__(self) -> None:
        self._graph.replay()


class Timer:
    """The GPU time of sequences of calls: the GPU is held back until the host is ahead of it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._lead_s = dict.fromkeys((True, False), LEAST_LEAD_S)

    def __call__(self, calls: Sequence[Callable[[], None]]) -> tuple[list[float], float]:
        """Run *calls*; return the seconds of each on the GPU, and when the host had launched all of them.

        From the first kernel of a call to the first of the next, or to the last of all: they add up to the whole.
        Calls that the GPU had to wait for are run again behind a longer lead, and captured in the end: they must bear
        to be run more than once.
        """
        if self._device != "cuda":
            marks = [time.perf_counter()]
            for call in calls:
                call()
                marks.append(time.perf_counter())
            return [b - a for a, b in pairwise(marks)], marks[0]
        captured = not any(isinstance(call, Launched) for call in calls)
        while True:
            lead_s = self._lead_s[captured]
            seconds, launched, ended = _timed(calls, lead_s)
            if kept_busy([getattr(call, "head_start", 1.0) for call in calls], seconds, launched, ended):
                self._lead_s[captured] = max(LEAST_LEAD_S, DECAY * lead_s)
                return seconds, launched[-1]
            if lead_s > HOPELESS_S:
                raise RuntimeError(f"the host takes more than {lead_s:.1f} s to launch {len(calls)} graphs")
            if captured or lead_s < MOST_LEAD_S:
                self._lead_s[captured] = 2 * lead_s
            else:
                calls = [call.capture() if isinstance(call, Launched) else call for call in calls]
                captured = True


def kept_busy(heads: Sequence[float], seconds: Sequence[float], launched: Sequence[float], ended: float) -> bool:
    """Return whether the GPU never waited for the host: its *seconds* on each call, the last of which *ended*.

    The host began to launch call i at launched[i] and was through at launched[i + 1]. The share heads[i] of that has to
    precede the call's time on the GPU, and all of it the end of that time.
    """
    at = ended - SLACK_S - np.cumsum(np.array([*seconds, 0.0])[::-1])[::-1]
    begun, through = np.array(launched[:-1]), np.array(launched[1:])
    return bool(np.all(begun + heads * (through - begun) <= at[:-1]) and np.all(through <= at[1:]))


def hold_back(seconds: float) -> None:
    """Keep the GPU's stream waiting for about *seconds*."""
    torch.cuda._sleep(int(seconds * CYCLES_PER_S))


def _timed(calls: Sequence[Callable[[], None]], lead_s: float) -> tuple[list[float], list[float], float]:
    """Run *calls* behind a wait of *lead_s*; return the seconds of each, the host's times between them, and its end."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
    hold_back(lead_s)
    events[0].record()
    launched = [time.perf_counter()]
    for call, event in zip(calls, events[1:], strict=True):
        call()
        event.record()
        launched.append(time.perf_counter())
    events[-1].synchronize()
    ended = time.perf_counter()
    return [1e-3 * float(a.elapsed_time(b)) for a, b in pairwise(events)], launched, ended
