"""Continuous batching with chunked prefill on paged KV: which requests run in the next step, and on what memory.

vLLM V1's order: decode rows first, oldest first; then the prompt that is half way; then waiting requests, first come
first served, while tokens, rows and blocks last. When blocks run out, the newest running request is evicted, waits at
the head of the queue, and is computed again. No randomness and no event loop. The rules themselves: `sdsim.batch`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from sdsim import batch
from sdsim.policy import IntArray
from sdsim.request import RequestTable
from sdsim.verification import DraftDepths
from sdsim.workload import Requests


class Limits(NamedTuple):
    """What one replica can hold."""

    max_num_seqs: int
    max_num_batched_tokens: int
    blocks: int
    """KV blocks."""
    block_size: int = 16
    lookahead: int = 0
    """Slots that each running request has beyond its next token: the longest draft it may be given."""


class Shown(NamedTuple):
    """Read-only views of a step's decode rows: request, KV tokens stored, output tokens emitted, drafts that wait."""

    ids: IntArray
    context: IntArray
    generated: IntArray
    pending: IntArray


class Scheduler:
    """One replica's queue and batch."""

    def __init__(self, index: int, limits: Limits, requests: RequestTable, depths: DraftDepths) -> None:
        self.requests, self.depths = requests, depths
        self.load = 0
        """Requests on the replica, running or waiting."""
        most = limits.max_num_seqs
        self.state = np.zeros(batch.STATE_FIELDS, dtype=np.int64)
        self.rows = np.zeros((batch.ROW_FIELDS, most), dtype=np.int64)
        self.step = np.zeros((batch.STEP_FIELDS, most), dtype=np.int64)
        self.gaps = np.zeros(2 * most)
        self.queue = np.zeros(1024, dtype=np.int64)
        start = {
            batch.INDEX: index,
            batch.MAX_ROWS: most,
            batch.BUDGET: limits.max_num_batched_tokens,
            batch.BLOCK_SIZE: limits.block_size,
            batch.LOOKAHEAD: limits.lookahead,
            batch.FREE: limits.blocks,
            batch.TOTAL: limits.blocks,
            batch.HALF: batch.NONE,
            batch.PLANES: depths.planes,
            batch.PARTIAL: depths.partial,
        }
        self.state[list(start)] = list(start.values())
        self._read_only = self.rows.view()
        self._read_only.setflags(write=False)
        self._shown: dict[int, Shown] = {}
        self._chunks: dict[int, IntArray] = {}

    @property
    def outstanding_tokens(self) -> int:
        """Prompt and output tokens that are still to be computed."""
        return int(self.state[batch.OUTSTANDING])

    @property
    def waiting_tokens(self) -> int:
        """Tokens still to be computed of prompts, of those that wait and of the one that is half way."""
        state, numbers = self.state, self.requests.numbers
        places = (state[batch.HEAD] + np.arange(state[batch.WAITING])) % len(self.queue)
        prompts = [*self.queue[places].tolist(), *([state[batch.HALF]] if state[batch.HALF] != batch.NONE else [])]
        found = numbers[batch.PROMPT, prompts] + numbers[batch.GENERATED, prompts] - numbers[batch.CONTEXT, prompts]
        return int(found.sum())

    @property
    def decoding(self) -> tuple[int, int]:
        """Decode rows, and the tokens that they have stored."""
        rows = int(self.state[batch.ROWS])
        return rows, int(self.rows[batch.CONTEXT, :rows].sum())

    @property
    def held(self) -> IntArray:
        """Ids of the requests that wait or run."""
        state = self.state
        places = (state[batch.HEAD] + np.arange(state[batch.WAITING])) % len(self.queue)
        half = state[batch.HALF : batch.HALF + 1]
        rows = self.rows[batch.ID, : state[batch.ROWS]]
        return np.concatenate([rows, half[half != batch.NONE], self.queue[places]])

    @property
    def budget(self) -> int:
        """Tokens of a step at most."""
        return int(self.state[batch.BUDGET])

    def cached_tokens(self, request: int) -> int:
        """Return the prompt tokens of a request whose KV is here: none, without a prefix cache."""
        return 0

    def add(self, request: int) -> None:
        """Queue a request that has arrived."""
        if self.load >= len(self.queue):
            self._widen_queue()
        self.load += 1
        batch.enqueue(self.state, self.queue, self.requests.numbers, request)

    def count(self, request: int, times: int = 1) -> None:
        """Let routers see a request that is queued later; *times* -1 takes that back."""
        numbers = self.requests.numbers
        self.load += times
        self.state[batch.OUTSTANDING] += times * (numbers[batch.PROMPT, request] + numbers[batch.OUTPUT, request])

    def _widen_queue(self) -> None:
        wider = np.zeros(2 * len(self.queue), dtype=np.int64)
        wider[: len(self.queue)] = np.roll(self.queue, -self.state[batch.HEAD])
        self.state[batch.HEAD] = 0
        self.queue = wider

    def schedule(self, now: float) -> tuple[int, int, int, int, int, int, int]:
        """Choose the step that begins at time *now*; see `batch.schedule` for what is returned."""
        return batch.schedule(
            self.state, self.rows, self.queue, self.step, self.requests.numbers, self.requests.times, now
        )  # fmt: skip

    def trim_prefill(self, budget: int) -> int:
        """Cut the step's chunks to *budget* tokens in all; return how many are left."""
        return batch.trim(self.state, self.queue, self.step, self.requests.numbers, budget)

    def prefill(self) -> tuple[int, int, int, int]:
        """Return, over the step's chunks, tokens, tokens stored before, query-key pairs, and prompts that end."""
        return batch.prefill(self.state, self.step, self.requests.numbers)

    def conclude(self, now: float, length: int, limited: bool) -> tuple[int, int, int, int, int, int, int, int]:
        """End the step at time *now*, its rows drafting *length* tokens each; see `batch.conclude`.

        *limited*: the rows verify what `limit` set.
        """
        return batch.conclude(
            self.state, self.rows, self.step, self.gaps, self.requests.numbers, self.requests.times,
            self.depths.table, now, length, limited,
        )  # fmt: skip

    def limit(self, verified: IntArray) -> None:
        """Let the step's rows verify these drafts of theirs."""
        self.step[batch.VERIFY, : len(verified)] = verified

    def shown(self, rows: int) -> Shown:
        """Return views of the first *rows* rows."""
        known = self._shown.get(rows)
        if known is None:
            fields = (batch.ID, batch.CONTEXT, batch.GENERATED, batch.PENDING)
            known = self._shown[rows] = Shown(*(self._read_only[field, :rows] for field in fields))
        return known

    def chunks(self, count: int) -> IntArray:
        """Return a view of the step's *count* chunks: request, KV tokens stored, tokens of each."""
        known = self._chunks.get(count)
        if known is None:
            known = self._chunks[count] = self.step[: batch.CHUNK + 1, :count].T
        return known

    def told(self, rows: int) -> IntArray:
        """Return (request, drafts verified, drafts accepted) of the *rows* rows of the step that ended."""
        return self.step[batch.TOLD : batch.ACCEPTED + 1, :rows].copy()

    def finished(self, count: int) -> list[int]:
        """Return the *count* requests that finished with the step."""
        self.load -= count
        done: list[int] = self.step[batch.DONE, :count].tolist()
        return done

    def stored_tokens(self) -> int:
        """Return the KV tokens of all running requests."""
        half = self.state[batch.HALF]
        held = int(self.rows[batch.CONTEXT, : self.state[batch.ROWS]].sum())
        return held + (int(self.requests.numbers[batch.CONTEXT, half]) if half != batch.NONE else 0)

    def set_drafter_memory(self, lookahead: int, blocks: int) -> None:
        """Change lookahead and pool, when a drafter is loaded or dropped; the pool may be overdrawn until evictions."""
        state = self.state
        state[batch.FREE] += blocks - state[batch.TOTAL]
        state[batch.TOTAL], state[batch.LOOKAHEAD] = blocks, lookahead

    def unfinished(self) -> list[int]:
        """Return the requests on the replica: rows, those in a prompt, those that wait. Rows become requests again."""
        state, numbers = self.state, self.requests.numbers
        rows = self.rows[:, : state[batch.ROWS]]
        numbers[: batch.ROW_FIELDS, rows[batch.ID]] = rows
        half = [int(state[batch.HALF])] if state[batch.HALF] != batch.NONE else []
        chunks = [int(r) for r, _, _ in self.chunks(int(state[batch.CHUNKS])) if r not in half]
        waiting = np.roll(self.queue, -state[batch.HEAD])[: state[batch.WAITING]]
        found = [*rows[batch.ID].tolist(), *half, *chunks, *waiting.tolist()]
        numbers[batch.REPLICA, found] = state[batch.INDEX]
        return found

    def drain(self, since: float) -> list[int]:
        """Lose all KV: give up every request, and return them; those that have emitted do so again after a gap.

        *since* is when the rows of the step in the making emitted last.
        """
        state, numbers, times = self.state, self.requests.numbers, self.requests.times
        ran = state[batch.ROWS] + state[batch.CHUNKS] + (state[batch.HALF] != batch.NONE)
        found = self.unfinished()
        waiting = int(state[batch.WAITING])
        running = found[: len(found) - waiting] if waiting else found
        assert len(running) <= ran
        numbers[batch.PREEMPTIONS, running] += 1
        for request in running:
            if numbers[batch.GENERATED, request] and np.isnan(times[batch.LATE_SINCE, request]):
                times[batch.LATE_SINCE, request] = since
        for field in (batch.CONTEXT, batch.PENDING, batch.BLOCKS):
            numbers[field, found] = 0
        for field in (batch.WAITING, batch.ROWS, batch.DECODING, batch.CHUNKS, batch.LATE, batch.OUTSTANDING):
            state[field] = 0
        state[batch.HALF], state[batch.FREE] = batch.NONE, state[batch.TOTAL]
        self.load = 0
        return found


@cache
def load() -> None:
    """Read the compiled rules from disk, or compile them, by a step of one request: not on the time of a run."""
    requests = RequestTable()
    one = np.ones(1, dtype=np.int64)
    requests.add(Requests(one - 1, np.zeros(1), one, one, one - 1), 0)
    scheduler = Scheduler(0, Limits(1, 1, 1), requests, DraftDepths(requests, None))
    scheduler.add(0)
    scheduler.schedule(0.0)
    scheduler.trim_prefill(1)
    scheduler.prefill()
    scheduler.conclude(1.0, 0, False)
