"""The event loop: requests arrive, replicas step. One event per engine step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush, heapreplace

import numpy as np

from sdsim.batch import ARRIVAL
from sdsim.errors import CapacityError
from sdsim.replica import Replica
from sdsim.request import RequestTable
from sdsim.routers import Router
from sdsim.verification import DraftDepths
from sdsim.workload import Requests

PROGRESS_STEPS = 1024
DRAWN = 512
"""Requests whose coins are drawn at a time: these then stay in the processor's cache."""


class Engine:
    """Drives *replicas* through *arrivals*, which become known to *requests* and *depths*.

    *token_limit* is the longest request, prompt and output, that a replica can ever hold. A request whose arrival is
    NaN (closed loop) arrives *think* s after an earlier one finishes.
    """

    def __init__(
        self,
        replicas: list[Replica],
        router: Router,
        arrivals: Iterator[Requests],
        requests: RequestTable,
        depths: DraftDepths,
        token_limit: int,
        think: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self._replicas = replicas
        self._schedulers = [r.scheduler for r in replicas]
        self._router = router
        self._arrivals = arrivals
        self._requests = requests
        self._depths = depths
        self._token_limit = token_limit
        self._think = think
        self._progress = progress
        self._running: list[tuple[float, int, int]] = []
        """The steps that run, a heap: when each ends, its number among all steps, and its replica."""
        self._begun = 0
        self._idle = set(range(len(replicas)))
        self._woken: list[int] = []
        """Replicas that were idle when a request came, and have not begun yet."""
        self._held: list[list[int]] = [[] for _ in replicas]
        """Requests that came after a host that works ahead had chosen its replica's next step."""
        self._released: deque[float] = deque()
        """When the next requests of a closed loop arrive."""
        self._ended = 0.0
        """When the last step ended."""

    def run(self, until: float | None) -> float:
        """Run to *until*, or until every request is done; return the time at the end, s."""
        last = math.inf if until is None else math.nextafter(until, -math.inf)
        now = reached = 0.0
        for request, arrival in self._arriving():
            if math.isnan(arrival):
                now = self._await_release(now, last)
                if not self._released:
                    break
                arrival = self._requests.times[ARRIVAL, request] = self._released.popleft()
            # the clock may round to just below the arrival: requests of one time are told by that time, not by it
            if arrival > max(reached, now):
                self._wake(now)
                now += arrival - now
                self._step_to(min(now, last))
                if now > last:
                    break
            reached = max(reached, arrival)
            self._submit(request, arrival)
        self._wake(now)
        self._step_to(last)
        for index in range(len(self._replicas)):
            self._hand_over(index)
        return self._ended if until is None else until

    def _await_release(self, now: float, last: float) -> float:
        """Step until a finished request of a closed loop lets the next one in; return the time."""
        if self._released:
            return now
        self._wake(now)
        while not self._released and self._next() <= last:
            self._step_to(self._next())
        return self._ended

    def _next(self) -> float:
        """Return when something happens next, other than an arrival."""
        return self._running[0][0] if self._running else math.inf

    def _submit(self, request: int, arrival: float) -> None:
        self._give(self._router(self._schedulers, request, arrival), request, arrival)

    def _give(self, index: int, request: int, now: float) -> None:
        """Hand a request to a replica; one that is idle is to be woken."""
        replica = self._replicas[index]
        if index in self._idle:
            self._idle.remove(index)
            self._woken.append(index)
        elif now >= replica.chooses_s and index not in self._woken:
            self._held[index].append(request)
            self._schedulers[index].count(request)
            return
        replica.submit(request)

    def _hand_over(self, index: int) -> None:
        """Queue the requests that were held back."""
        for request in self._held[index]:
            self._schedulers[index].count(request, -1)
            self._replicas[index].submit(request)
        self._held[index].clear()

    def _wake(self, now: float) -> None:
        """Begin on the idle replicas that requests came to, all requests of this time being there."""
        for index in self._woken:
            seconds = self._replicas[index].begin(now)
            if seconds is None:
                self._idle.add(index)
            else:
                self._begun += 1
                heappush(self._running, (now + seconds, self._begun, index))
        self._woken.clear()

    def _step_to(self, time: float) -> None:
        """End every step that ends by *time*, and begin the next one there."""
        running, replicas = self._running, self._replicas
        while running and running[0][0] <= time:
            now, _, index = running[0]
            replica = replicas[index]
            finished = replica.end(now)
            if finished:
                self._completed(finished, now)
            seconds = replica.begin(now)
            if self._held[index]:
                self._hand_over(index)
                seconds = replica.begin(now) if seconds is None else seconds
            if seconds is None:
                heappop(running)
                self._idle.add(index)
            else:
                self._begun += 1
                heapreplace(running, (now + seconds, self._begun, index))
            self._ended = now
            if self._progress is not None and not replica.step % PROGRESS_STEPS:
                self._progress(now)

    def _completed(self, requests: int, now: float) -> None:
        """Let as many requests of a closed loop in, after its time to think."""
        if self._think is not None:
            self._released.extend([now + self._think] * requests)

    def _arriving(self) -> Iterator[tuple[int, float]]:
        """Yield requests in order of arrival, and when they arrive, s."""
        for chunk in self._arrivals:
            self._check_fit(chunk)
            for start in range(0, len(chunk), DRAWN):
                part = chunk.part(start, start + DRAWN)
                self._requests.add(part, self._depths.draw(part))
                yield from self._known(part)

    def _known(self, part: Requests) -> Iterator[tuple[int, float]]:
        """Yield the requests of *part* that arrive by themselves, and when, s."""
        return zip(part.ids.tolist(), part.arrival_s.tolist(), strict=True)

    def _check_fit(self, chunk: Requests) -> None:
        tokens = chunk.prompt_tokens + chunk.output_tokens
        too_long = np.flatnonzero(tokens > self._token_limit)
        if len(too_long):
            i = int(too_long[0])
            message = (
                f"workload: request {chunk.ids[i]} of {chunk.prompt_tokens[i]} prompt and {chunk.output_tokens[i]} "
                f"output tokens can never fit, nor {len(too_long) - 1} more up to request {chunk.ids[-1]}; allowed: "
                f"{self._token_limit} together (the model's positions and the replica's KV memory); set workload.clip, "
                "or give the replica more memory"
            )
            raise CapacityError(message)
