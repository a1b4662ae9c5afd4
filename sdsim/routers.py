"""Which replica a request goes to. Every router reads the same few figures of each replica, and ties go to the first.

Power of two: Mitzenmacher (2001). Prefix-aware: the cost of SGLang's and Preble's cache-aware balancing, in tokens. SLO
feasibility with packing: PolyServe (arXiv 2507.17769) and Llumnix (OSDI 2024). Mix-aware is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from sdsim.batch import CLASS, PROMPT
from sdsim.policy import FloatArray, IntArray, StepCosts
from sdsim.request import RequestTable
from sdsim.streams import coins

Target = float | FloatArray | None
"""Seconds, for all requests or by class; None: no target."""
CONTEXT_STEP = 256
"""Mean contexts are rounded to this many tokens where a router prices a step: prices are then few."""


class Loaded(Protocol):
    """What a router may ask of a replica."""

    @property
    def load(self) -> int:
        """Requests waiting or running."""
        ...

    @property
    def outstanding_tokens(self) -> int:
        """Prompt and output tokens still to be computed."""
        ...

    @property
    def waiting_tokens(self) -> int:
        """Tokens still to be computed of prompts alone."""
        ...

    @property
    def decoding(self) -> tuple[int, int]:
        """Decode rows, and the tokens that they have stored."""
        ...

    @property
    def budget(self) -> int:
        """Tokens of a step at most."""
        ...

    @property
    def held(self) -> IntArray:
        """Ids of the requests that wait or run there."""
        ...

    def cached_tokens(self, request: int) -> int:
        """Return the prompt tokens of a request whose KV is there."""
        ...


Router = Callable[[Sequence[Loaded], int, float], int]
"""Returns the place, among these replicas, for a request that arrives at a time, s."""


def least_loaded(replicas: Sequence[Loaded], _request: int, _now: float) -> int:
    """Return the replica with the fewest requests."""
    loads = [replica.load for replica in replicas]
    return loads.index(min(loads))


def shortest_queue(replicas: Sequence[Loaded], _request: int, _now: float) -> int:
    """Return the replica with the fewest tokens to compute."""
    tokens = [replica.outstanding_tokens for replica in replicas]
    return tokens.index(min(tokens))


def prefix_aware(replicas: Sequence[Loaded], request: int, _now: float) -> int:
    """Return the replica with the fewest tokens to compute if the request went there, what it has of it being free."""
    tokens = [replica.outstanding_tokens - replica.cached_tokens(request) for replica in replicas]
    return tokens.index(min(tokens))


class RoundRobin:
    """Each replica in turn."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, replicas: Sequence[Loaded], request: int, now: float) -> int:
        """Return the next replica."""
        chosen = self._next % len(replicas)
        self._next += 1
        return chosen


class PowerOfTwo:
    """The less loaded of two replicas that the request's coins draw."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, replicas: Sequence[Loaded], request: int, now: float) -> int:
        """Return the one with fewer requests, of the equals the lower."""
        if len(replicas) == 1:
            return 0
        first, second = (float(coins(self._seed, "router", request, place)) for place in (0, 1))
        one = int(first * len(replicas))
        other = int(second * (len(replicas) - 1))
        low, high = sorted((one, other + (other >= one)))
        return low if replicas[low].load <= replicas[high].load else high


class SloFeasible:
    """The fullest replica on which the request, and those that decode there, are expected to meet the targets.

    Expected TTFT: the prompt tokens before and with it, in steps that fill the token budget beside the rows. Expected
    TPOT: a step with one row more. Both without drafts. Where no replica is feasible, the least expected TTFT decides.
    """

    def __init__(self, prices: StepCosts, requests: RequestTable, ttft_s: Target, tpot_s: Target) -> None:
        self._prices, self._requests = prices, requests
        self._targets = ttft_s, tpot_s

    def __call__(self, replicas: Sequence[Loaded], request: int, now: float) -> int:
        """Return the replica for *request*."""
        prompt, number = self._requests.numbers[[PROMPT, CLASS], request].tolist()
        ttft_s, tpot_s = (_target(one, number) for one in self._targets)
        expected = [self._expected(replica, prompt - replica.cached_tokens(request)) for replica in replicas]
        feasible = [i for i, (ttft, tpot) in enumerate(expected) if ttft <= ttft_s and tpot <= tpot_s]
        if feasible:
            return max(feasible, key=lambda i: replicas[i].load)
        return min(range(len(replicas)), key=lambda i: expected[i][0])

    def _expected(self, replica: Loaded, prompt: int) -> tuple[float, float]:
        """Return the TTFT and TPOT, s, if *prompt* tokens more had to be computed there."""
        rows, stored = replica.decoding
        context = stored / rows // CONTEXT_STEP * CONTEXT_STEP if rows else 0.0
        tokens = replica.waiting_tokens + prompt
        room = max(replica.budget - rows, 1)
        chunk = min(tokens, room)
        ttft = math.ceil(tokens / room) * self._prices.step_seconds(rows, 0, context, chunk)
        return ttft, self._prices.step_seconds(rows + 1, 0, context)


class MixAware:
    """The replica where the request adds the least to the sum of all requests' TPOT, drafts counted.

    Rows of one batch share its draft length: classes that accept differently, one length fits none. A replica of n_c
    requests of class c is taken to run the length K of the least sum of n_c T(n, K) / tokens_c(K). Where all accept
    alike and T rises by equal steps, that is least added where the fewest are: this is `least_loaded`.

    Classes that accept 0.45 and 0.9, half of the requests each, end 2 to 14% sooner on average than under
    `least_loaded`, on four replicas that serve 2 to 40 requests/s each, under `auto` and `position_goodput` alike. Near
    the highest of these rates that is at the cost of the class that accepts more (its requests end 15% later).
    """

    def __init__(self, prices: StepCosts, requests: RequestTable, lengths: Sequence[int], tokens: FloatArray) -> None:
        """*tokens* is (classes, lengths): what a row of each class emits a step at each of *lengths*."""
        self._prices, self._requests = prices, requests
        self._lengths, self._per_token = lengths, 1.0 / tokens

    def __call__(self, replicas: Sequence[Loaded], request: int, now: float) -> int:
        """Return the replica for *request*."""
        number = int(self._requests.numbers[CLASS, request])
        added = [self._added(replica, number) for replica in replicas]
        return added.index(min(added))

    def _added(self, replica: Loaded, number: int) -> float:
        """Return by how much a request of the class with this number raises the sum of TPOT there, s."""
        rows, stored = replica.decoding
        context = stored / rows // CONTEXT_STEP * CONTEXT_STEP if rows else 0.0
        before = np.bincount(self._requests.numbers[CLASS, replica.held], minlength=len(self._per_token))
        after = before.copy()
        after[number] += 1
        return self._sum(after, context) - self._sum(before, context)

    def _sum(self, counts: IntArray, context: float) -> float:
        rows = int(counts.sum())
        seconds = [self._prices.step_seconds(rows, k, context) for k in self._lengths] if rows else 0.0
        return float(np.min(counts @ self._per_token * seconds))


def _target(target: Target, number: int) -> float:
    """Return the target of the class with this number."""
    if target is None:
        return math.inf
    return float(target[number]) if isinstance(target, np.ndarray) else target


class Snapshot(NamedTuple):
    """A replica as it was reported."""

    replica: Loaded
    load: int
    outstanding_tokens: int
    waiting_tokens: int
    decoding: tuple[int, int]
    budget: int
    held: IntArray

    def cached_tokens(self, request: int) -> int:
        """See `Loaded.cached_tokens`; routers keep their own account of prefixes, which is not stale."""
        return self.replica.cached_tokens(request)


class Stale:
    """Lets a *router* see the replicas as they reported last: all at once, every *refresh_s* seconds from 0 on.

    Requests routed since are not in the report. A replica that is new reports at once.
    """

    def __init__(self, router: Router, refresh_s: float) -> None:
        self._router, self._refresh_s = router, refresh_s
        self._period = -1.0
        self._reports: dict[int, Snapshot] = {}

    def __call__(self, replicas: Sequence[Loaded], request: int, now: float) -> int:
        """Return what the router chooses from the reports."""
        period = now // self._refresh_s
        if period > self._period:
            self._period = period
            self._reports.clear()
        return self._router([self._reported(replica) for replica in replicas], request, now)

    def _reported(self, replica: Loaded) -> Snapshot:
        found = self._reports.get(id(replica))
        if found is None:
            r = replica
            found = Snapshot(r, r.load, r.outstanding_tokens, r.waiting_tokens, r.decoding, r.budget, r.held)
            self._reports[id(replica)] = found
        return found


def make_router(
    kind: str,
    seed: int,
    prices: StepCosts,
    requests: RequestTable,
    targets: tuple[Target, Target] = (None, None),
    refresh_s: float = 0.0,
    drafts: tuple[Sequence[int], FloatArray] = ((0,), np.ones((1, 1))),
) -> Router:
    """Return a fresh router, with the *targets* of TTFT and TPOT in s, told every *refresh_s* if not 0.

    *drafts* are draft lengths, and (classes, lengths) the tokens that a row of each class emits a step at each.
    """
    made: dict[str, Callable[[], Router]] = {
        "least_loaded": lambda: least_loaded,
        "shortest_queue": lambda: shortest_queue,
        "prefix_aware": lambda: prefix_aware,
        "round_robin": RoundRobin,
        "power_of_two": lambda: PowerOfTwo(seed),
        "mix_aware": lambda: MixAware(prices, requests, *drafts),
        "slo_feasible": lambda: SloFeasible(prices, requests, *targets),
    }
    router = made[kind]()
    return Stale(router, refresh_s) if refresh_s else router
