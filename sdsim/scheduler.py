"""Continuous batching with chunked prefill on paged KV: which requests run in the next step, and on what memory.

vLLM V1's order: decode rows first, oldest first; then the prompt that is half way; then waiting requests, first come
first served, while tokens, rows and blocks last. When blocks run out, the newest running request is evicted, waits at
the head of the queue, and is computed again. Pure: no clock, no randomness, no simulator.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from sdsim.kv_cache import KvCache
from sdsim.request import Request
from sdsim.rows import BLOCKS, CONTEXT, GENERATED, ID, JOINED, PENDING, REMAINING, SLACK, SLOT, Rows

Chunk = tuple[Request, int, int]
"""A request, its KV tokens stored before the step, and the prompt tokens that the step computes."""

FAR = 1 << 40


class Scheduler:
    """State of one replica's queue and batch.

    *lookahead* slots beyond its next token are kept for each running request: the longest draft it may be given.
    """

    def __init__(self, max_num_seqs: int, max_num_batched_tokens: int, kv: KvCache, lookahead: int = 0) -> None:
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.kv = kv
        self.lookahead = lookahead
        self.waiting: deque[Request] = deque()
        self.rows = Rows(max_num_seqs)
        self.running: list[Request] = []
        """The requests of the decode rows, aligned with them."""
        self.prefilling: Request | None = None
        """The request whose prompt is half way: always the newest, and at most one."""
        self.chunks: list[Chunk] = []
        self.decoding = 0
        """Decode rows in the step: all of them, unless the token budget ends earlier."""
        self.left_out: tuple[int, ...] = ()
        """Ids of the decode rows that the token budget left out of the step."""
        self.evicted: list[Request] = []
        """Requests evicted while this step was scheduled."""
        self.steps_done = 0
        """Decode steps completed."""
        self.even_pending: int | None = 0
        """The drafts that wait in every row, or None where rows differ."""
        self.pending_total = 0
        self.context_total = 0
        self._free_slots = list(range(max_num_seqs - 1, -1, -1))
        self._least_slack = FAR
        self.least_remaining = FAR
        """A lower bound on the output tokens that any row still has to emit."""

    @property
    def load(self) -> int:
        """Requests on the replica, running or waiting."""
        return len(self.waiting) + len(self.running) + len(self.unborn())

    @property
    def outstanding_tokens(self) -> int:
        """Prompt and output tokens that are still to be computed."""
        prompts = sum(r.to_prefill - r.computed + r.remaining for r in (*self.waiting, *self.unborn()))
        return prompts + int(self.rows.remaining.sum())

    def unborn(self) -> list[Request]:
        """Return the admitted requests that are not decode rows yet: half way, or in their last chunk right now."""
        half = [self.prefilling] if self.prefilling is not None else []
        return half + [request for request, _, _ in self.chunks if request is not self.prefilling]

    def add(self, request: Request) -> None:
        """Queue a request that has arrived."""
        self.waiting.append(request)

    def schedule(self) -> bool:
        """Choose the next step's rows and chunks; return whether there is anything to run."""
        self.chunks = []
        if self.evicted:
            self.evicted = []
        if self._least_slack < 0 or self.kv.free < 0:
            self._reserve()
        budget = self._choose_rows()
        if self.prefilling is not None and budget:
            budget -= self._continue(self.prefilling, budget)
        if self.waiting and budget and not self.evicted:
            self._admit(budget)
        return self.decoding > 0 or bool(self.chunks)

    def _choose_rows(self) -> int:
        """Set `decoding` and return the tokens left for prompts."""
        count = self.rows.count
        tokens = count + self.pending_total
        self.left_out = ()
        if tokens <= self.max_num_batched_tokens:
            self.decoding = count
            return self.max_num_batched_tokens - tokens
        ends = np.cumsum(self.rows.pending + 1)
        self.decoding = int(np.searchsorted(ends, self.max_num_batched_tokens, side="right"))
        self.left_out = tuple(self.rows.ids[self.decoding :].tolist())
        used = int(ends[self.decoding - 1]) if self.decoding else 0
        return self.max_num_batched_tokens - used

    def _reserve(self) -> None:
        """Give each row the blocks for its next token and the lookahead, evicting the newest where they run out."""
        while self.kv.free < 0:
            self._evict()
        rows, size = self.rows, self.kv.block_size
        needed = np.maximum(-(rows.slack // size), 0)
        if self.kv.take(int(needed.sum())):
            rows.blocks += needed
            rows.slack += needed * size
        else:
            self._reserve_in_order(needed)
        self._least_slack = int(self.rows.slack.min(initial=FAR))

    def _reserve_in_order(self, needed: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        rows, row = self.rows, 0
        while row < rows.count:
            blocks = int(needed[row])
            if self.kv.take(blocks):
                rows.blocks[row] += blocks
                rows.slack[row] += blocks * self.kv.block_size
                row += 1
            else:
                self._evict()

    def _evict(self) -> None:
        """Evict the newest running request: it loses its blocks and drafts, and waits first in the queue."""
        request = self.prefilling
        if request is not None:
            self.prefilling = None
        else:
            column = self.rows.pop()
            request = self.running.pop()
            request.generated = int(column[GENERATED])
            request.blocks = int(column[BLOCKS])
            request.verify_steps += self.steps_in(column)
            self.pending_total -= int(column[PENDING])
            self.context_total -= int(column[CONTEXT])
            self._free_slots.append(int(column[SLOT]))
        self.kv.give(request.blocks)
        request.blocks = request.computed = 0
        request.preemptions += 1
        self.evicted.append(request)
        self.waiting.appendleft(request)

    def steps_in(self, column: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
        """Return the decode steps that a leaving row took part in."""
        return self.steps_done - int(column[JOINED])

    def _continue(self, request: Request, budget: int) -> int:
        """Schedule the next chunk of the prompt that is half way; return its tokens."""
        chunk = min(request.to_prefill - request.computed, budget)
        needed = self.kv.blocks_for(request.computed + chunk + self.lookahead) - request.blocks
        if needed > 0:
            if not self.kv.take(needed):
                self._evict()
                return 0
            request.blocks += needed
        self.chunks.append((request, request.computed, chunk))
        return chunk

    def _admit(self, budget: int) -> None:
        """Admit waiting requests in order while rows, tokens and blocks last."""
        places = self.max_num_seqs - self.rows.count - len(self.chunks)
        while self.waiting and places > 0 and budget > 0:
            request = self.waiting[0]
            chunk = min(request.to_prefill, budget)
            blocks = self.kv.blocks_for(chunk + self.lookahead)
            if not self.kv.take(blocks):
                break
            self.waiting.popleft()
            request.blocks = blocks
            self.chunks.append((request, 0, chunk))
            places -= 1
            budget -= chunk

    def trim_prefill(self, budget: int) -> None:
        """Cut the step's chunks to *budget* tokens in all, the newest first; a request left with none waits again."""
        excess = sum(chunk for _, _, chunk in self.chunks) - budget
        while excess > 0 and self.chunks:
            request, stored, chunk = self.chunks.pop()
            cut = min(chunk, excess)
            excess -= cut
            if cut < chunk:
                self.chunks.append((request, stored, chunk - cut))
            elif request is not self.prefilling:
                self.kv.give(request.blocks)
                request.blocks = 0
                self.waiting.appendleft(request)

    def set_drafter_memory(self, lookahead: int, blocks: int) -> None:
        """Change lookahead and pool size when a drafter is loaded or dropped; rows give or need slack accordingly."""
        self.rows.slack += self.lookahead - lookahead
        self._least_slack = int(self.rows.slack.min(initial=FAR))
        self.lookahead = lookahead
        self.kv.resize(blocks)

    def advance_prefill(self) -> list[Request]:
        """Store the step's chunks; return the requests whose prompt ended, in order."""
        ended = []
        for request, stored, chunk in self.chunks:
            request.computed = stored + chunk
            if request.computed == request.to_prefill:
                ended.append(request)
                if request is self.prefilling:
                    self.prefilling = None
            else:
                self.prefilling = request
        self.chunks = []
        return ended

    def start_decoding(self, request: Request) -> int:
        """Make a row of a request that just emitted the token after its prompt; return the row's slot."""
        context = request.computed
        slack = request.blocks * self.kv.block_size - (context + 1 + self.lookahead)
        slot = self._free_slots.pop()
        column = [0] * 9
        column[ID], column[CONTEXT], column[GENERATED] = request.id, context, request.generated
        column[REMAINING], column[SLACK], column[BLOCKS] = request.remaining, slack, request.blocks
        column[SLOT], column[JOINED] = slot, self.steps_done
        self.rows.push(column)
        self.running.append(request)
        self.context_total += context
        self._least_slack = min(self._least_slack, slack)
        self.least_remaining = min(self.least_remaining, request.remaining)
        return slot

    def emitted(self, tokens: np.ndarray[tuple[int], np.dtype[np.int64]] | int, total: int, most: int) -> None:
        """Record that the step's decode rows emitted *tokens* each: *total* in all, *most* at most."""
        rows = self.rows
        rows.emit(tokens, self.decoding)
        if self.left_out:
            rows.joined[self.decoding :] += 1
        self.context_total += total
        self._least_slack -= most
        self.least_remaining -= most
        self.steps_done += 1

    def finished(self) -> list[Request]:
        """Remove the rows that have nothing left to emit; return their requests, oldest first."""
        if self.least_remaining > 0:
            return []
        rows = self.rows
        done = rows.remaining == 0
        which = np.flatnonzero(done)
        leaving = []
        for i in which:
            column = rows.now[:, i]
            request = self.running[i]
            request.generated = request.output
            request.verify_steps += self.steps_in(column)
            self.kv.give(int(column[BLOCKS]))
            self.context_total -= int(column[CONTEXT])
            self._free_slots.append(int(column[SLOT]))
            leaving.append(request)
        for i in which[::-1]:
            del self.running[i]
        if leaving:
            rows.keep(~done)
        self.least_remaining = int(rows.remaining.min(initial=FAR))
        return leaving

    def release(self, request: Request) -> None:
        """Free a request that ended with the token after its prompt."""
        self.kv.give(request.blocks)
        request.blocks = 0

    def set_pending(self, pending: np.ndarray[tuple[int], np.dtype[np.int64]] | int) -> None:
        """Set the drafts of every row for the next step; rows that the token budget left out keep theirs."""
        rows = self.rows
        if self.left_out:
            fresh = np.full(rows.count, pending) if isinstance(pending, int) else pending
            pending = np.where(np.isin(rows.ids, self.left_out), rows.pending, fresh)
        rows.pending[:] = pending
        if isinstance(pending, int):
            self.even_pending, self.pending_total = pending, pending * rows.count
        else:
            self.even_pending, self.pending_total = None, int(pending.sum())
