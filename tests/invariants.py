"""What must hold on a replica after every step, whatever the scenario."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sdsim import batch
from sdsim.replica import Replica
from sdsim.scheduler import Scheduler


def check_scheduler(scheduler: Scheduler) -> None:
    """Assert that blocks, rows, tokens and totals agree with one another, between two steps."""
    state, requests = scheduler.state, scheduler.requests
    rows, half = scheduler.rows[:, : state[batch.ROWS]], state[batch.HALF]
    halves = requests.numbers[:, [half] if half != batch.NONE else []]
    waiting = np.roll(scheduler.queue, -state[batch.HEAD])[: state[batch.WAITING]]
    used, held = state[batch.TOTAL] - state[batch.FREE], rows[batch.BLOCKS].sum() + halves[batch.BLOCKS].sum()
    assert used == held, f"{used} blocks in use, {held} held"
    for field in (batch.BLOCKS, batch.CONTEXT, batch.PENDING):
        assert (requests.numbers[field, waiting] == 0).all()
    on_it = [*rows[batch.ID].tolist(), *halves[batch.ID].tolist(), *waiting.tolist()]
    assert len(set(on_it)) == len(on_it) == scheduler.load
    known = requests.numbers[:, rows[batch.ID]]
    for field in (batch.ID, batch.OUTPUT, batch.DEPTHS):
        assert (rows[field] == known[field]).all()
    assert (rows[batch.CONTEXT] == known[batch.PROMPT] + rows[batch.GENERATED] - 1).all()
    assert (rows[batch.GENERATED] >= 1).all()
    assert (rows[batch.GENERATED] < rows[batch.OUTPUT]).all()
    assert (rows[batch.BLOCKS] * state[batch.BLOCK_SIZE] >= rows[batch.CONTEXT]).all()
    assert rows.shape[1] + halves.shape[1] <= state[batch.MAX_ROWS]
    assert not state[batch.CHUNKS]
    others = np.concatenate([halves, requests.numbers[:, waiting]], axis=1)
    left = (rows[batch.OUTPUT] - rows[batch.GENERATED]).sum()
    left += (others[batch.PROMPT] - others[batch.CONTEXT] + others[batch.OUTPUT]).sum()
    assert scheduler.outstanding_tokens == left
    late = ~np.isnan(requests.times[batch.LATE_SINCE, on_it])
    assert state[batch.LATE] == late.sum()


def watch(patch: pytest.MonkeyPatch, blocks: int | None = None) -> dict[str, Any]:
    """Check every step of every replica from now on; shrink KV pools to *blocks*. Return counts of what was seen."""
    seen = {"steps": 0, "evictions": 0, "left_out": 0, "time": 0.0}
    begin, end = Replica.begin, Replica.end

    def checked_begin(self: Replica, now: float) -> float | None:
        seconds = begin(self, now)
        seen["evictions"] += self.scheduler.state[batch.EVICTED]
        if seconds is None:
            return None
        assert seconds > 0
        shape = self.shape
        assert shape.verify_tokens + shape.prefill_tokens <= self.scheduler.state[batch.BUDGET]
        assert shape.verify_tokens >= shape.rows
        assert self.scheduler.state[batch.FREE] >= 0
        seen["left_out"] += self.scheduler.state[batch.ROWS] - self.scheduler.state[batch.DECODING]
        whole = np.broadcast_to(np.asarray(shape.verify_lengths), (shape.rows,))
        assert shape.verify_tokens == shape.rows + whole.sum()
        assert shape.attention_pairs == ((1 + whole) * shape.contexts).sum()
        return seconds

    def checked_end(self: Replica, now: float) -> int:
        finished = end(self, now)
        check_scheduler(self.scheduler)
        seen["steps"] += 1
        return finished

    patch.setattr(Replica, "begin", checked_begin)
    patch.setattr(Replica, "end", checked_end)
    if blocks is not None:
        patch.setattr("sdsim.pools.kv_blocks", lambda *a, **k: blocks)
    return seen


def run_checked(make: Callable[[], Any], blocks: int | None = None) -> tuple[Any, dict[str, Any]]:
    """Return what *make* returns, run under `watch`, and what was seen."""
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch, blocks)
        return make(), seen
