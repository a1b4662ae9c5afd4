"""Replicas that come, go and hand requests on: failures, autoscaling, prefill apart from decoding, sessions.

An event loop that knows more kinds of events than `sdsim.engine`, for the scenarios that have any (section 9 of
SEMANTICS.md); the steps and their rules are the same.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any

from sdsim.batch import ARRIVAL, CONTEXT, FINISH, GENERATED, LATE_SINCE, OUTPUT, PENDING, PROMPT
from sdsim.engine import Engine
from sdsim.network import Network
from sdsim.policy import Policy
from sdsim.prefix import Prefixes, ReusingScheduler
from sdsim.recorder import Recorder
from sdsim.routers import Router
from sdsim.workload import Requests

UP, STARTING, DRAINING, DOWN, OFF = "up", "starting", "draining", "down", "off"
Action = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Member:
    """A replica's part in the fleet."""

    gpus: range
    """Their numbers in the network."""
    prefills: bool = False
    """It computes prompts and hands their requests on."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A replica loses everything at a time, and is back after a while, s; None: never."""

    replica: int
    at: float
    duration: float | None


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Every *every* s, as many replicas are wanted as *load* requests each need, *least* to *most*."""

    least: int
    most: int
    """The first replicas, which may be switched off."""
    load: float
    every: float
    start: float
    """From the decision until a replica takes requests, s."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What happens to the replicas, and what lies between them."""

    members: Sequence[Member]
    failures: Sequence[Failure] = ()
    autoscale: Autoscale | None = None
    network: Network | None = None
    """Needed where any member prefills."""
    kv_bytes_per_token: float = 0.0
    prefixes: Prefixes = field(default_factory=Prefixes)


class Ends:
    """Requests that finish on a replica, until the fleet looks at them."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        """(replica, request)"""

    def on(self, replica: int) -> Callable[[list[int]], None]:
        """Return what *replica* tells its finished requests."""
        return lambda requests: self.seen.extend((replica, request) for request in requests)


class Fleet(Engine):
    """See `Engine`. *new_policy* makes the policy of a replica that has failed, *ends* is what the replicas tell."""

    def __init__(
        self,
        *parts: Any,
        plan: FleetPlan,
        decode_router: Router,
        ends: Ends,
        recorder: Recorder,
        new_policy: Callable[[int], Policy],
        **more: Any,
    ) -> None:
        super().__init__(*parts, **more)
        self._plan, self._ends, self._recorder, self._new_policy = plan, ends, recorder, new_policy
        self._decode_router = decode_router
        count = len(self._replicas)
        prefilling = [i for i in range(count) if plan.members[i].prefills]
        self._serving = [i for i in range(count) if not plan.members[i].prefills]
        self._entry = prefilling or self._serving
        first = plan.autoscale.least if plan.autoscale else count
        scaled = range(plan.autoscale.most if plan.autoscale else 0)
        self._state = [OFF if i in scaled and i >= first else UP for i in range(count)]
        self._paid_since = [0.0 if state == UP else math.nan for state in self._state]
        self._paid: list[tuple[int, float, float]] = []
        """Replicas that were switched on, and off again: when, s."""
        self._gpu_s = 0.0
        self._events: list[tuple[float, int, Action]] = []
        self._set = 0
        self._limbo: deque[int] = deque()
        """Requests that no replica can take now."""
        self._travelling: set[int] = set()
        """Requests whose KV is on its way."""
        self._sending = [0.0] * count
        """When a replica has sent the last KV that it has to send."""
        self._outputs: dict[int, int] = {}
        """Output tokens of requests on prefilling replicas, which emit one there."""
        self._after: dict[int, tuple[int, float]] = {}
        """The turn after a request, and how long after its answer it arrives, s."""
        self._open = True
        """Whether requests may still come from the workload."""
        self.transfers, self.transfer_s, self.lost = 0, 0.0, 0
        for failure in plan.failures:
            self._at(failure.at, partial(self._fail, failure.replica, failure.duration))
        if plan.autoscale is not None:
            self._at(plan.autoscale.every, partial(self._scale, plan.autoscale))

    def _at(self, time: float, action: Action) -> None:
        self._set += 1
        heappush(self._events, (time, self._set, action))

    def _next(self) -> float:
        return min(super()._next(), self._events[0][0] if self._events else math.inf)

    def _step_to(self, time: float) -> None:
        """See `Engine`: at one time, steps end before events happen, and then the replicas that these woke begin."""
        while (now := self._next()) <= time and now < math.inf:
            if super()._next() <= now:
                super()._step_to(now)
                self._look_at_ends(now)
                continue
            while self._events and self._events[0][0] <= now:
                heappop(self._events)[2](now)
            self._wake(now)

    def _known(self, part: Requests) -> Iterator[tuple[int, float]]:
        self._plan.prefixes.add(part)
        if part.think_s is None:
            yield from super()._known(part)
            return
        for request, arrival, think in zip(
            *(x.tolist() for x in (part.ids, part.arrival_s, part.think_s)), strict=True
        ):
            if math.isnan(think):
                yield request, arrival
            else:
                self._after[request - 1] = request, think

    def _completed(self, requests: int, now: float) -> None:
        """Do nothing: what has finished on a replica may go on elsewhere; see `_look_at_ends`."""

    def _arriving(self) -> Iterator[tuple[int, float]]:
        yield from super()._arriving()
        self._open = False

    def _submit(self, request: int, arrival: float) -> None:
        index = self._choose(self._entry, self._router, request, arrival)
        if index is None:
            self._limbo.append(request)
            return
        if self._plan.members[index].prefills:
            numbers = self._requests.numbers
            self._outputs[request] = int(numbers[OUTPUT, request])
            numbers[OUTPUT, request] = numbers[GENERATED, request] + 1
        self._give(index, request, arrival)

    def _choose(self, among: Sequence[int], router: Router, request: int, now: float) -> int | None:
        """Return a replica that is up, or None."""
        up = [i for i in among if self._state[i] == UP]
        return up[router([self._schedulers[i] for i in up], request, now)] if up else None

    def _look_at_ends(self, now: float) -> None:
        for index, request in self._ends.seen:
            if request in self._outputs and self._hand_on(index, request, now):
                continue
            self._recorder.finished([request])
            super()._completed(1, now)
            self._plan.prefixes.forget(request)
            if request in self._after:
                turn, think = self._after.pop(request)
                self._at(now + think, partial(self._begin_turn, turn))
        self._ends.seen.clear()
        for index, state in enumerate(self._state):
            if state == DRAINING and not self._schedulers[index].load:
                self._become(index, OFF, now)

    def _begin_turn(self, request: int, now: float) -> None:
        self._requests.times[ARRIVAL, request] = now
        self._submit(request, now)

    def _hand_on(self, index: int, request: int, now: float) -> bool:
        """Send a request whose prompt is computed to where it decodes; return whether it has more to emit."""
        numbers, times = self._requests.numbers, self._requests.times
        numbers[OUTPUT, request] = self._outputs.pop(request)
        if numbers[GENERATED, request] >= numbers[OUTPUT, request]:
            return False
        times[FINISH, request], times[LATE_SINCE, request] = math.nan, now
        numbers[CONTEXT, request] = numbers[PENDING, request] = 0
        target = self._choose(self._serving, self._decode_router, request, now)
        if target is None:
            self._limbo.append(request)
            return True
        network, members = self._plan.network, self._plan.members
        assert network is not None
        tokens = int(numbers[PROMPT, request] + numbers[GENERATED, request]) - 1
        size = tokens * self._plan.kv_bytes_per_token
        sent = max(now, self._sending[index]) + network.transfer(size, members[index].gpus, members[target].gpus)
        self._sending[index] = sent
        self.transfers, self.transfer_s = self.transfers + 1, self.transfer_s + sent - now
        self._travelling.add(request)
        self._at(sent, partial(self._arrive, target, request, tokens))
        return True

    def _arrive(self, index: int, request: int, tokens: int, now: float) -> None:
        """Queue a request whose KV has arrived; if its replica has failed meanwhile, it starts over."""
        self._travelling.remove(request)
        scheduler = self._schedulers[index]
        if self._state[index] not in (UP, DRAINING):
            self._submit(request, now)
            return
        assert isinstance(scheduler, ReusingScheduler)
        scheduler.arrived[request] = tokens
        self._give(index, request, now)

    def _become(self, index: int, state: str, now: float) -> None:
        """Change a replica's state; GPUs cost from the start-up on until they are switched off."""
        if state == OFF:
            self._paid.append((index, self._paid_since[index], now))
            self._paid_since[index] = math.nan
        elif math.isnan(self._paid_since[index]):
            self._paid_since[index] = now
        self._state[index] = state
        if state == UP:
            waiting, self._limbo = self._limbo, deque()
            for request in waiting:
                self._submit(request, now)

    def _fail(self, index: int, duration: float | None, now: float) -> None:
        if self._state[index] in (OFF, DOWN):
            return
        if self._state[index] == STARTING:
            self._set_down(index, duration, now)
            return
        self._running = [step for step in self._running if step[2] != index]
        heapify(self._running)
        self._woken = [i for i in self._woken if i != index]
        self._idle.add(index)
        lost = self._replicas[index].fail(self._new_policy(index)) + self._held[index]
        self._held[index] = []
        self._set_down(index, duration, now)
        self.lost += len(lost)
        for request in lost:
            if request in self._outputs:
                self._requests.numbers[OUTPUT, request] = self._outputs.pop(request)
            self._submit(request, now)

    def _set_down(self, index: int, duration: float | None, now: float) -> None:
        self._become(index, DOWN, now)
        if duration is not None:
            self._at(now + duration, partial(self._become, index, UP))

    def _scale(self, rule: Autoscale, now: float) -> None:
        """Start and switch off replicas, the first ones staying longest, and look again later."""
        scaled = range(rule.most)
        load = len(self._limbo) + sum(self._schedulers[i].load for i in scaled)
        wanted = min(max(math.ceil(load / rule.load), rule.least), rule.most)
        changed = False
        for index in scaled:
            state, here = self._state[index], sum(self._state[i] in (UP, STARTING) for i in range(index))
            if here < wanted and state in (OFF, DRAINING):
                self._start(index, rule.start, now)
                changed = True
            elif here >= wanted and state == UP:
                self._become(index, DRAINING if self._schedulers[index].load else OFF, now)
            elif here >= wanted and state == STARTING:
                self._become(index, OFF, now)
        if self._open or self._running or self._woken or self._events or changed:
            self._at(now + rule.every, partial(self._scale, rule))

    def _start(self, index: int, seconds: float, now: float) -> None:
        if self._state[index] == DRAINING:
            self._become(index, UP, now)
            return
        self._become(index, STARTING, now)
        began = self._paid_since[index]

        def ready(then: float) -> None:
            if self._state[index] == STARTING and self._paid_since[index] == began:
                self._become(index, UP, then)

        self._at(now + seconds, ready)

    def close(self, now: float) -> None:
        """Note the end of the run: requests that are on no replica are unfinished."""
        for request, output in self._outputs.items():
            self._requests.numbers[OUTPUT, request] = output
        self._recorder.finished([*self._limbo, *sorted(self._travelling)])
        on = [(index, since, now) for index, since in enumerate(self._paid_since) if not math.isnan(since)]
        for index, since, until in self._paid + on:  # a replica may be switched off after the last request has finished
            self._gpu_s += len(self._plan.members[index].gpus) * max(min(until, now) - since, 0.0)

    def summary(self) -> dict[str, Any]:
        """Return what the fleet did: GPU time paid for, s, tokens not computed again, KV sent, requests lost."""
        reused = sum(s.reused_tokens for s in self._schedulers if isinstance(s, ReusingScheduler))
        return {
            "gpu_seconds": self._gpu_s,
            "reused_tokens": reused,
            "kv_transfers": self.transfers,
            "kv_transfer_mean_s": self.transfer_s / self.transfers if self.transfers else None,
            "requests_lost": self.lost,
        }
