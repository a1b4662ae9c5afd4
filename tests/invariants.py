"""What must hold on a replica after every step, whatever the scenario."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sdsim.replica import Replica
from sdsim.scheduler import Scheduler


def check_scheduler(scheduler: Scheduler) -> None:
    """Assert that blocks, rows, tokens and totals agree with one another."""
    rows, kv, half = scheduler.rows, scheduler.kv, scheduler.prefilling
    held = int(rows.blocks.sum()) + (half.blocks if half else 0)
    assert kv.used == held, f"{kv.used} blocks in use, {held} held"
    assert all(r.blocks == 0 and r.computed == 0 for r in scheduler.waiting)
    assert rows.count == len(scheduler.running)
    assert rows.ids.tolist() == [r.id for r in scheduler.running]
    for request, context, generated, left in zip(
        scheduler.running, rows.context, rows.generated, rows.remaining, strict=True
    ):
        assert context == request.prompt + generated - 1
        assert generated + left == request.output
        assert left > 0
    slack = rows.blocks * kv.block_size - (rows.context + 1 + scheduler.lookahead)
    assert (slack == rows.slack).all()
    assert scheduler.pending_total == rows.pending.sum()
    assert scheduler.context_total == rows.context.sum()
    assert scheduler.even_pending is None or (rows.pending == scheduler.even_pending).all()
    assert len(scheduler.running) + (half is not None) <= scheduler.max_num_seqs
    slots = rows.slot.tolist()
    assert len(set(slots)) == len(slots)
    assert sorted(slots + scheduler._free_slots) == list(range(scheduler.max_num_seqs))


def watch(patch: pytest.MonkeyPatch, blocks: int | None = None) -> dict[str, Any]:
    """Check every step of every replica from now on; shrink KV pools to *blocks*. Return counts of what was seen."""
    seen = {"steps": 0, "evictions": 0, "left_out": 0, "time": 0.0}
    begin, end = Replica.begin, Replica.end

    def checked_begin(self: Replica, now: float) -> float | None:
        seconds = begin(self, now)
        seen["evictions"] += len(self.scheduler.evicted)
        if seconds is None:
            return None
        assert seconds > 0
        shape = self.shape
        assert shape.verify_tokens + shape.prefill_tokens <= self.scheduler.max_num_batched_tokens
        assert shape.verify_tokens >= shape.rows
        assert self.scheduler.kv.free >= 0
        seen["left_out"] += len(self.scheduler.left_out)
        whole = np.broadcast_to(np.asarray(shape.verify_lengths), (shape.rows,))
        assert shape.verify_tokens == shape.rows + whole.sum()
        assert shape.attention_pairs == ((1 + whole) * shape.contexts).sum()
        return seconds

    def checked_end(self: Replica, now: float) -> list[Any]:
        finished = end(self, now)
        check_scheduler(self.scheduler)
        seen["steps"] += 1
        return finished

    patch.setattr(Replica, "begin", checked_begin)
    patch.setattr(Replica, "end", checked_end)
    if blocks is not None:
        patch.setattr("sdsim.simulation.kv_blocks", lambda *a, **k: blocks)
    return seen


def run_checked(make: Callable[[], Any], blocks: int | None = None) -> tuple[Any, dict[str, Any]]:
    """Return what *make* returns, run under `watch`, and what was seen."""
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch, blocks)
        return make(), seen
