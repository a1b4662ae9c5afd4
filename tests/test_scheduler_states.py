"""Any sequence of arrivals, steps, plans and drafter changes leaves the scheduler whole, and serves everyone."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sdsim import batch
from sdsim.acceptance import Acceptance, Component
from sdsim.request import RequestTable
from sdsim.scheduler import Limits, Scheduler
from sdsim.verification import DraftDepths
from sdsim.workload import Requests
from tests.invariants import check_scheduler

SIZE, LONGEST, LOADED, DROPPED = 4, 3, 14, 18
"""Tokens of a block, the longest draft, and the pool with a drafter and without."""
LONGEST_REQUEST = LOADED * SIZE - 1 - LONGEST


class Machine(RuleBasedStateMachine):
    """A scheduler driven as a replica drives it."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = RequestTable()
        self.depths = DraftDepths(self.requests, Acceptance(7, (Component("all", 1.0, 0.6),)), available=0.8)
        limits = Limits(4, 24, LOADED, SIZE, LONGEST)
        self.scheduler = Scheduler(0, limits, self.requests, self.depths)
        self.now, self.emitted, self.loaded = 0.0, 0, True
        self.done: set[int] = set()
        self.firsts: list[int] = []

    @rule(prompt=st.integers(1, LONGEST_REQUEST - 1), share=st.floats(0, 1), times=st.integers(1, 3))
    def arrive(self, prompt: int, share: float, times: int) -> None:
        output = 1 + int(share * min(12, LONGEST_REQUEST - prompt - 1))
        first, ones = self.requests.count, np.ones(times, dtype=np.int64)
        drawn = Requests(np.arange(first, first + times), self.now * ones, prompt * ones, output * ones, 0 * ones)
        self.requests.add(drawn, self.depths.draw(drawn))
        for request in drawn.ids.tolist():
            self.scheduler.add(request)

    @rule(loaded=st.booleans())
    def switch_the_drafter(self, loaded: bool) -> None:
        if loaded != self.loaded:
            self.loaded = loaded
            self.scheduler.set_drafter_memory(*((LONGEST, LOADED) if loaded else (0, DROPPED)))

    @rule(
        length=st.integers(0, LONGEST),
        share=st.none() | st.floats(0, 1),
        prompts=st.none() | st.integers(0, 20),
    )
    @precondition(lambda self: self.scheduler.load)
    def step(self, length: int, share: float | None, prompts: int | None) -> None:
        scheduler = self.scheduler
        oldest, before = self.oldest(), self.progress()
        rows, pending, _, _, chunks, *_ = scheduler.schedule(self.now)
        assert rows or chunks, "there are requests, and nothing runs"
        if share is not None:
            scheduler.limit((share * scheduler.shown(rows).pending).astype(np.int64))
        if prompts is not None and rows:
            chunks = scheduler.trim_prefill(prompts)
        tokens, _, _, ending = scheduler.prefill()
        assert rows + (pending if share is None else 0) + tokens <= 24
        assert scheduler.state[batch.FREE] >= 0
        self.now += 1.0
        emitted, won, _, _, finished, *_ = scheduler.conclude(self.now, length if self.loaded else 0, share is not None)
        assert 0 <= won <= pending
        self.emitted += emitted + ending
        new = set(scheduler.finished(finished))
        assert not new & self.done, "a request finished twice"
        self.done |= new
        after = self.progress()
        assert (after >= before).all(), "a request lost tokens that it had emitted"
        assert oldest in new or after[oldest] > before[oldest] or self.stored(oldest) > self.was_stored, "it starves"

    def oldest(self) -> int:
        """Return the request that was admitted, or else came, before all others that are there."""
        state = self.scheduler.state
        if state[batch.ROWS]:
            found = self.scheduler.rows[batch.ID, 0]
        elif state[batch.HALF] != batch.NONE:
            found = state[batch.HALF]
        else:
            found = self.scheduler.queue[state[batch.HEAD]]
        self.was_stored = self.stored(int(found))
        return int(found)

    def stored(self, request: int) -> int:
        """Return the tokens of *request* that have KV, while its prompt is computed."""
        return int(self.requests.numbers[batch.CONTEXT, request])

    def progress(self) -> np.ndarray:
        """Return the tokens that each request has emitted."""
        rows = self.scheduler.rows[:, : self.scheduler.state[batch.ROWS]]
        found = self.requests.numbers[batch.GENERATED, : self.requests.count].copy()
        found[rows[batch.ID]] = rows[batch.GENERATED]
        return found

    @invariant()
    def the_books_balance(self) -> None:
        check_scheduler(self.scheduler)
        assert self.progress().sum() == self.emitted
        assert self.scheduler.load + len(self.done) == self.requests.count

    @invariant()
    def first_come_first_served(self) -> None:
        """First tokens come in the order of arrival, evictions or not."""
        times = self.requests.times[batch.FIRST_TOKEN, : self.requests.count]
        known = ~np.isnan(times)
        assert (np.diff(known.astype(int)) <= 0).all()
        assert (np.diff(times[known]) >= 0).all()

    def teardown(self) -> None:
        """Serve what is left: everyone finishes with all tokens, and all blocks are free again."""
        self.switch_the_drafter(loaded=True)
        for _ in range(200 * self.requests.count):
            if not self.scheduler.load:
                break
            self.step(LONGEST, None, None)
        assert len(self.done) == self.requests.count
        numbers = self.requests.numbers[:, : self.requests.count]
        assert (numbers[batch.GENERATED] == numbers[batch.OUTPUT]).all()
        assert self.scheduler.state[batch.FREE] == self.scheduler.state[batch.TOTAL] == LOADED
        assert self.scheduler.outstanding_tokens == 0


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestScheduler = Machine.TestCase
