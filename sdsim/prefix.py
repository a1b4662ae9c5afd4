"""KV that need not be computed: prefixes that a replica has computed before, and KV that was sent to it (section 9).

A prompt's tokens fall into blocks with ids; equal ids are equal prefixes. A cache knows which blocks are there: those
of running requests, and those of earlier ones in the free part of the pool, the least recently used of which go first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

import numpy as np

from sdsim import batch
from sdsim.policy import IntArray
from sdsim.request import RequestTable
from sdsim.scheduler import Limits, Scheduler
from sdsim.verification import DraftDepths
from sdsim.workload import Requests


class Prefixes:
    """The blocks of every known request's prompt, and of what it stores in the end, in order."""

    def __init__(self) -> None:
        self.block_tokens = 1
        self._ids: dict[int, Sequence[int]] = {}

    def add(self, drawn: Requests) -> None:
        """Note the blocks of *drawn*, if they have any."""
        if drawn.blocks is None:
            return
        self.block_tokens = drawn.blocks.tokens
        for i, request in enumerate(drawn.ids.tolist()):
            self._ids[request] = drawn.blocks.ids[i]

    def whole(self, request: int, tokens: int) -> Sequence[int]:
        """Return the ids of the whole blocks among a request's first *tokens* tokens."""
        return self._ids.get(request, ())[: tokens // self.block_tokens]

    def forget(self, request: int) -> None:
        """Drop the blocks of a request that has finished."""
        self._ids.pop(request, None)


class PrefixCache:
    """What one replica has of the requests' prefixes."""

    def __init__(self, prefixes: Prefixes, block_size: int) -> None:
        self._prefixes, self._block_size = prefixes, block_size
        self._running: Counter[int] = Counter()
        """Blocks of running requests, and of how many."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Blocks of earlier requests, the least recently used first."""
        self._held: dict[int, list[int]] = {}

    def matched(self, request: int, prompt: int) -> int:
        """Return the tokens of a request's prompt that are there: whole blocks, and one token less than the prompt."""
        count = 0
        for block in self._prefixes.whole(request, prompt - 1):
            if block not in self._running and block not in self._idle:
                break
            count += 1
        return count * self._prefixes.block_tokens

    def hold(self, request: int, tokens: int) -> None:
        """Note that a running request now stores *tokens* tokens."""
        held = self._held.setdefault(request, [])
        for block in self._prefixes.whole(request, tokens)[len(held) :]:
            self._idle.pop(block, None)
            self._running[block] += 1
            held.append(block)

    def release(self, request: int) -> None:
        """Note that a request runs no longer; its last blocks are the first to go."""
        for block in reversed(self._held.pop(request, [])):
            self._running[block] -= 1
            if not self._running[block]:
                del self._running[block]
                self._idle[block] = None
                self._idle.move_to_end(block)

    def fit(self, free: int) -> None:
        """Drop the least recently used blocks beyond *free* KV blocks."""
        each = -(-self._prefixes.block_tokens // self._block_size)
        while len(self._idle) * each > max(free, 0):
            self._idle.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._running.clear()
        self._idle.clear()
        self._held.clear()


class ReusingScheduler(Scheduler):
    """A scheduler whose requests may have KV already when they are admitted, in its *cache* or `arrived`, and may
    overtake others: *priorities* has an entry a class.
    """

    def __init__(
        self,
        index: int,
        limits: Limits,
        requests: RequestTable,
        depths: DraftDepths,
        cache: PrefixCache | None = None,
        priorities: IntArray | None = None,
    ) -> None:
        super().__init__(index, limits, requests, depths)
        self.cache, self._priorities = cache, priorities
        self.arrived: dict[int, int] = {}
        """KV tokens that were sent here for a request that waits."""
        self.reused_tokens = 0
        """Prompt tokens that were not computed, because they were in the cache."""

    def cached_tokens(self, request: int) -> int:
        """See `Scheduler.cached_tokens`."""
        if self.cache is None:
            return 0
        return self.cache.matched(request, int(self.requests.numbers[batch.PROMPT, request]))

    def add(self, request: int) -> None:
        """See `Scheduler.add`. The request may have emitted elsewhere, and owe its next token since."""
        super().add(request)
        if self._priorities is not None:
            batch.overtake(self.state, self.queue, self.requests.numbers, self._priorities)
        self.state[batch.LATE] += not np.isnan(self.requests.times[batch.LATE_SINCE, request])

    def schedule(self, now: float) -> tuple[int, int, int, int, int, int, int]:
        """See `Scheduler.schedule`."""
        numbers, state = self.requests.numbers, self.state
        if self.cache is not None:
            self.cache.fit(int(state[batch.FREE]))
        tried = self._admissible()
        for request in tried:
            numbers[batch.CONTEXT, request] = self._present(request)
        found = super().schedule(now)
        if state[batch.EVICTED]:
            self._evicted(int(state[batch.EVICTED]))
        admitted = set(self.step[batch.CHUNK_OF, : state[batch.CHUNKS]].tolist())
        for request in tried:
            if request not in admitted:
                numbers[batch.CONTEXT, request] = 0
        return found

    def _admissible(self) -> list[int]:
        """Return the first waiting requests, as many as this step might admit, each computing a token at least."""
        state = self.state
        count = min(state[batch.WAITING], state[batch.MAX_ROWS] - state[batch.ROWS], state[batch.BUDGET])
        found, tokens = [], 0
        for place in range(int(count)):
            request = int(self.queue[(state[batch.HEAD] + place) % len(self.queue)])
            found.append(request)
            numbers = self.requests.numbers
            tokens += int(numbers[batch.PROMPT, request] + numbers[batch.GENERATED, request]) - self._present(request)
            if tokens >= state[batch.BUDGET]:
                break
        return found

    def _present(self, request: int) -> int:
        return self.arrived.get(request) or self.cached_tokens(request)

    def _evicted(self, count: int) -> None:
        places = (self.state[batch.HEAD] + np.arange(count)) % len(self.queue)
        for request in self.queue[places].tolist():
            if self.cache is not None:
                self.cache.release(request)

    def trim_prefill(self, budget: int) -> int:
        """See `Scheduler.trim_prefill`."""
        before = int(self.state[batch.CHUNKS])
        left = super().trim_prefill(budget)
        for request in self.step[batch.CHUNK_OF, left:before].tolist():
            if request != self.state[batch.HALF]:
                self.requests.numbers[batch.CONTEXT, request] = 0
        return left

    def conclude(self, now: float, length: int, limited: bool) -> tuple[int, int, int, int, int, int, int, int]:
        """See `Scheduler.conclude`."""
        chunks = self.step[: batch.CHUNK + 1, : self.state[batch.CHUNKS]].T.tolist()
        for request, stored, _ in chunks:
            if request != self.state[batch.HALF]:
                self.state[batch.OUTSTANDING] -= stored
                self.reused_tokens += stored if self.arrived.pop(request, None) is None else 0
        found = super().conclude(now, length, limited)
        if self.cache is not None:
            for request, stored, tokens in chunks:
                self.cache.hold(request, stored + tokens)
        return found

    def finished(self, count: int) -> list[int]:
        """See `Scheduler.finished`."""
        done = super().finished(count)
        if self.cache is not None:
            numbers = self.requests.numbers
            for request in done:
                self.cache.hold(request, int(numbers[batch.PROMPT, request] + numbers[batch.GENERATED, request]) - 1)
                self.cache.release(request)
        return done

    def drain(self, now: float) -> list[int]:
        """See `Scheduler.drain`."""
        self.arrived.clear()
        if self.cache is not None:
            self.cache.clear()
        return super().drain(now)
