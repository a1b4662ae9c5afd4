"""The event loop: requests arrive, replicas step. One SimPy event per engine step; the only module that uses SimPy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import simpy

from sdsim.acceptance import MAX_DRAFT_LENGTH, Acceptance
from sdsim.cluster import Router
from sdsim.errors import CapacityError
from sdsim.replica import Replica
from sdsim.request import Request
from sdsim.streams import coins
from sdsim.workload import Requests

Events = Generator[simpy.Event, Any, None]
PROGRESS_STEPS = 1024


class Engine:
    """Drives *replicas* through *arrivals*.

    *token_limit* is the longest request, prompt and output, that a replica can ever hold. *available* is the share of
    positions at which the drafter has a draft. A request whose arrival is NaN (closed loop) arrives *think* s
    after an earlier one finishes.
    """

    def __init__(
        self,
        replicas: list[Replica],
        router: Router,
        arrivals: Iterator[Requests],
        acceptance: Acceptance | None,
        token_limit: int,
        available: float = 1.0,
        think: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self._env = simpy.Environment(0.0)
        self._replicas = replicas
        self._schedulers = [r.scheduler for r in replicas]
        self._router = router
        self._arrivals = arrivals
        self._acceptance = acceptance
        self._token_limit = token_limit
        self._available = available
        self._think = think
        self._progress = progress
        self._idle: list[simpy.Event | None] = [None] * len(replicas)
        self._held: list[list[Request]] = [[] for _ in replicas]
        self._released: deque[float] = deque()
        self._release: simpy.Event | None = None
        self.offered = 0

    def run(self, until: float | None) -> float:
        """Run to *until*, or until every request is done; return the time at the end, s."""
        env = self._env
        for index, replica in enumerate(self._replicas):
            env.process(self._step_forever(index, replica))
        env.process(self._arrive())
        env.run(until=until)
        for index in range(len(self._replicas)):
            self._hand_over(index)
        return float(env.now)

    def _step_forever(self, index: int, replica: Replica) -> Events:
        env, timeout, progress = self._env, self._env.timeout, self._progress
        begin, end = replica.begin, replica.end
        while True:
            seconds = begin(env.now)
            if self._held[index]:
                self._hand_over(index)
                seconds = begin(env.now) if seconds is None else seconds
            if seconds is None:
                event = self._idle[index] = env.event()
                yield event
                continue
            yield timeout(seconds)
            finished = end(env.now)
            if finished and self._think is not None:
                self._let_in(len(finished), env.now + self._think)
            if progress is not None and not replica.step % PROGRESS_STEPS:
                progress(env.now)

    def _let_in(self, count: int, at: float) -> None:
        """Let *count* requests of a closed loop arrive at time *at*."""
        self._released.extend([at] * count)
        if self._release is not None:
            self._release.succeed()
            self._release = None

    def _arrive(self) -> Events:
        env, reached = self._env, 0.0
        for chunk in self._arrivals:
            self._check_fit(chunk)
            for request in self._requests(chunk):
                if math.isnan(request.arrival_s):
                    while not self._released:
                        self._release = env.event()
                        yield self._release
                    request.arrival_s = self._released.popleft()
                # the clock may round to just below the arrival: requests of one time are told by that time, not by it
                if request.arrival_s > max(reached, env.now):
                    yield env.timeout(request.arrival_s - env.now)
                    # once more round the queue, so that steps that end now do so first
                    yield env.timeout(0)
                reached = max(reached, request.arrival_s)
                self._submit(request)

    def _submit(self, request: Request) -> None:
        self.offered += 1
        index = self._router(self._schedulers)
        event = self._idle[index]
        if event is None and self._replicas[index].rules.works_ahead:
            self._held[index].append(request)  # the next step is scheduled already
        else:
            self._replicas[index].submit(request)
        if event is not None:
            self._idle[index] = None
            event.succeed()

    def _hand_over(self, index: int) -> None:
        """Queue the requests that came after the next step had been scheduled."""
        for request in self._held[index]:
            self._replicas[index].submit(request)
        self._held[index].clear()

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

    def _requests(self, chunk: Requests) -> Iterator[Request]:
        """Yield the chunk's requests with their depths; whole chunks are drawn at once, because arrays are cheap."""
        columns = (chunk.ids, chunk.arrival_s, chunk.prompt_tokens, chunk.output_tokens, chunk.request_class)
        made = (Request(*row) for row in zip(*(c.tolist() for c in columns), strict=True))
        if self._acceptance is None:
            yield from made
            return
        depths, offsets = self._acceptance.depths(chunk.ids, chunk.output_tokens, chunk.request_class)
        drafted = self._drafted(chunk, offsets)
        bounds = offsets.tolist()
        for i, request in enumerate(made):
            request.depths = depths[:, bounds[i] : bounds[i + 1]]
            if drafted is not None:
                request.drafted = drafted[bounds[i] : bounds[i + 1]]
            yield request

    def _drafted(self, chunk: Requests, offsets: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        if self._available >= 1.0 or self._acceptance is None:
            return None
        widths = chunk.output_tokens + MAX_DRAFT_LENGTH
        owner = np.repeat(np.arange(len(chunk.ids)), widths)
        positions = np.arange(offsets[-1]) - offsets[owner]
        found: np.ndarray[Any, np.dtype[np.bool_]]
        found = coins(self._acceptance.seed, "draft-available", chunk.ids[owner], positions) < self._available
        return found
