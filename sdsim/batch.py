"""The rules of SEMANTICS.md, sections 3, 6 and 7, as loops over the arrays of one replica.

The functions that others call are `enqueue`, `overtake`, `schedule`, `trim`, `prefill` and `conclude`; all are
compiled. They live in one file because numba keeps compiled code by the file of the function called.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sdsim.compiled import compiled
from sdsim.policy import FloatArray, IntArray
from sdsim.streams import Depths

(ID, CONTEXT, GENERATED, PENDING, OUTPUT, DEPTHS, BLOCKS, STEPS) = range(8)
ROW_FIELDS = 8
"""Of a decode row: request; KV tokens stored; output tokens emitted; pending drafts; output tokens in all; where its
depths begin; blocks held; steps that it took part in as a row."""
(PROMPT, CLASS, PREEMPTIONS, REPLICA) = range(ROW_FIELDS, 12)
REQUEST_FIELDS = 12
"""A request has the same fields first, so that it becomes a row, and a row a request again, by copying."""
(ARRIVAL, FIRST_TOKEN, FINISH, LATE_SINCE) = range(4)
TIME_FIELDS = 4
"""Times of a request, s, NaN until known. LATE_SINCE: when it was evicted or left out, until it emits again."""
(
    INDEX, MAX_ROWS, BUDGET, BLOCK_SIZE, LOOKAHEAD, FREE, TOTAL, WAITING, HEAD, ROWS, DECODING, HALF, CHUNKS, EVICTED,
    LATE, OUTSTANDING, PLANES, PARTIAL,
) = range(18)  # fmt: skip
STATE_FIELDS = 18
"""The replica's number; limits of rows, tokens, tokens of a block; lookahead; blocks free and in all; requests waiting,
and where in the ring they begin; rows, and how many of them the step takes; the half-way request or NONE; chunks of the
step; requests it evicted; requests that are late; tokens still to compute; depth tables; whether drafts may lack."""
(CHUNK_OF, STORED, CHUNK, VERIFY, TOLD, VERIFIED, ACCEPTED, DONE) = range(8)
STEP_FIELDS = 8
"""Chunks: request, tokens stored before, tokens. Drafts that each row verifies. The outcome's requests, their drafts
verified and accepted. Requests that finished."""
NONE = -1


class Planned(NamedTuple):
    """What a replica runs and what waits there, for its next step. The run's replicas share `requests`, `times`.

    Each array that a compiled function is given costs time in every step: it gets those that it reads or writes.
    """

    state: IntArray
    """(STATE_FIELDS,) single numbers."""
    rows: IntArray
    """(ROW_FIELDS, most rows) decode rows, oldest first."""
    queue: IntArray
    """Waiting requests, a ring."""
    step: IntArray
    """(STEP_FIELDS, most rows) the step in the making."""
    requests: IntArray
    """(REQUEST_FIELDS, requests) every request of the run."""
    times: FloatArray
    """(TIME_FIELDS, requests) their times, s."""


class Ended(NamedTuple):
    """What a replica ran, to end the step; as `Planned`, without those that wait."""

    state: IntArray
    rows: IntArray
    step: IntArray
    gaps: FloatArray
    """(2 x most rows,) gaps that ended with the step, of requests that had sat out steps, s."""
    requests: IntArray
    times: FloatArray
    depths: Depths
    """(planes, a power of two) drafts that a chain from each output position would have accepted, a ring."""


@compiled
def _blocks_for(tokens: int, size: int) -> int:
    """Return the blocks that *tokens* tokens of one request take."""
    return -(-tokens // size)


@compiled
def _copy(source: IntArray, i: int, target: IntArray, j: int) -> None:
    """Copy a row to a request, or a request to a row."""
    for field in range(ROW_FIELDS):
        target[field, j] = source[field, i]


@compiled
def _put_first(state: IntArray, queue: IntArray, request: int) -> None:
    """Queue a request before all others."""
    state[HEAD] = (state[HEAD] - 1) % len(queue)
    queue[state[HEAD]] = request
    state[WAITING] += 1


@compiled
def _give_back(state: IntArray, requests: IntArray, request: int) -> None:
    """Return a request's blocks to the pool."""
    state[FREE] += requests[BLOCKS, request]
    requests[BLOCKS, request] = 0


@compiled
def _be_late(b: Planned, request: int, now: float) -> None:
    """Note that a request sits out the step that begins now."""
    if math.isnan(b.times[LATE_SINCE, request]):
        b.times[LATE_SINCE, request] = now
        b.state[LATE] += 1


@compiled
def _be_back(b: Ended, request: int, now: float) -> float:
    """Return the gap since a late request emitted last, NaN if it was not late."""
    gap: float = now - b.times[LATE_SINCE, request]
    if not math.isnan(gap):
        b.times[LATE_SINCE, request] = math.nan
        b.state[LATE] -= 1
    return gap


@compiled
def _evict(b: Planned, now: float) -> None:
    """Evict the newest running request (rule 3.4)."""
    request = b.state[HALF]
    if request != NONE:
        b.state[HALF] = NONE
    else:
        b.state[ROWS] -= 1
        request = b.rows[ID, b.state[ROWS]]
        _copy(b.rows, b.state[ROWS], b.requests, request)
        b.state[OUTSTANDING] += 1
    b.state[OUTSTANDING] += b.requests[CONTEXT, request]
    b.state[EVICTED] += 1
    b.requests[PREEMPTIONS, request] += 1
    b.requests[CONTEXT, request] = b.requests[PENDING, request] = 0
    _give_back(b.state, b.requests, request)
    _be_late(b, request, now)
    _put_first(b.state, b.queue, request)


@compiled
def _reserve(b: Planned, now: float) -> None:
    """Give each row the blocks for its next token and the lookahead (rule 3.1)."""
    while b.state[FREE] < 0:
        _evict(b, now)
    size, ahead, row = b.state[BLOCK_SIZE], b.state[LOOKAHEAD] + 1, 0
    while row < b.state[ROWS]:
        tokens = b.rows[CONTEXT, row] + ahead
        if tokens > b.rows[BLOCKS, row] * size:
            lacking = _blocks_for(tokens, size) - b.rows[BLOCKS, row]
            if lacking > b.state[FREE]:
                _evict(b, now)
                continue
            b.state[FREE] -= lacking
            b.rows[BLOCKS, row] += lacking
        row += 1


@compiled
def _choose_rows(b: Planned, now: float) -> int:
    """Choose the step's rows (rule 3.2); return the tokens left for prompts."""
    budget, row = b.state[BUDGET], 0
    while row < b.state[ROWS] and b.rows[PENDING, row] < budget:
        budget -= 1 + b.rows[PENDING, row]
        row += 1
    b.state[DECODING] = row
    for left_out in range(row, b.state[ROWS]):
        _be_late(b, b.rows[ID, left_out], now)
    return int(budget)


@compiled
def _add_chunk(b: Planned, request: int, budget: int) -> int:
    """Add a request's next chunk to the step (rules 3.3 and 3.5); return its tokens, or NONE where blocks lack."""
    stored = b.requests[CONTEXT, request]
    chunk = min(b.requests[PROMPT, request] + b.requests[GENERATED, request] - stored, budget)
    needed = _blocks_for(stored + chunk + b.state[LOOKAHEAD], b.state[BLOCK_SIZE])
    lacking = max(needed - b.requests[BLOCKS, request], 0)
    if lacking > b.state[FREE]:
        return NONE
    b.state[FREE] -= lacking
    b.requests[BLOCKS, request] += lacking
    place = b.state[CHUNKS]
    b.step[CHUNK_OF, place], b.step[STORED, place], b.step[CHUNK, place] = request, stored, chunk
    b.state[CHUNKS] += 1
    return int(chunk)


@compiled
def _admit(b: Planned, budget: int) -> None:
    """Admit waiting requests in order while rows, tokens and blocks, for all their tokens, last (rule 3.5)."""
    places = b.state[MAX_ROWS] - b.state[ROWS] - b.state[CHUNKS]
    while b.state[WAITING] > 0 and places > 0 and budget > 0:
        request = b.queue[b.state[HEAD]]
        tokens = b.requests[PROMPT, request] + b.requests[GENERATED, request]
        if _blocks_for(tokens, b.state[BLOCK_SIZE]) > b.state[FREE]:
            break
        chunk = _add_chunk(b, request, budget)
        if chunk == NONE:
            break
        b.state[HEAD] = (b.state[HEAD] + 1) % len(b.queue)
        b.state[WAITING] -= 1
        places -= 1
        budget -= chunk


@compiled
def enqueue(state: IntArray, queue: IntArray, requests: IntArray, request: int) -> None:
    """Queue a request that has arrived."""
    queue[(state[HEAD] + state[WAITING]) % len(queue)] = request
    state[WAITING] += 1
    state[OUTSTANDING] += requests[PROMPT, request] + requests[OUTPUT, request]


@compiled
def overtake(state: IntArray, queue: IntArray, requests: IntArray, priorities: IntArray) -> None:
    """Let the request queued last go before those of a lower priority, which are given by class (section 9)."""
    place = (state[HEAD] + state[WAITING] - 1) % len(queue)
    last = queue[place]
    for _ in range(state[WAITING] - 1):
        before = (place - 1) % len(queue)
        if priorities[requests[CLASS, queue[before]]] >= priorities[requests[CLASS, last]]:
            break
        queue[place] = queue[before]
        place = before
    queue[place] = last


@compiled
def schedule(
    state: IntArray, rows: IntArray, queue: IntArray, step: IntArray, requests: IntArray, times: FloatArray, now: float
) -> tuple[int, int, int, int, int, int, int]:  # fmt: skip
    """Choose the step that begins at time *now* (section 3).

    Return its rows; over them the pending drafts, stored tokens, and query-key pairs if all are verified; chunks;
    requests that wait; blocks free.
    """
    b = Planned(state, rows, queue, step, requests, times)
    state[EVICTED] = state[CHUNKS] = 0
    _reserve(b, now)
    budget = _choose_rows(b, now)
    if state[HALF] != NONE and budget > 0:
        chunk = _add_chunk(b, state[HALF], budget)
        if chunk == NONE:
            _evict(b, now)
        else:
            budget -= chunk
    if state[EVICTED] == 0:
        _admit(b, budget)
    pending = context = pairs = 0
    for row in range(state[DECODING]):
        pending += rows[PENDING, row]
        context += rows[CONTEXT, row]
        pairs += (1 + rows[PENDING, row]) * rows[CONTEXT, row]
    return (
        int(state[DECODING]), int(pending), int(context), int(pairs), int(state[CHUNKS]), int(state[WAITING]),
        int(state[FREE]),
    )  # fmt: skip


@compiled
def trim(state: IntArray, queue: IntArray, step: IntArray, requests: IntArray, budget: int) -> int:
    """Cut the chunks to *budget* tokens in all, the newest first (section 4); return how many are left."""
    excess = step[CHUNK, : state[CHUNKS]].sum() - budget
    while excess > 0:
        newest = state[CHUNKS] - 1
        cut = min(step[CHUNK, newest], excess)
        step[CHUNK, newest] -= cut
        excess -= cut
        if step[CHUNK, newest] == 0:
            state[CHUNKS] = newest
            if step[CHUNK_OF, newest] != state[HALF]:
                _give_back(state, requests, step[CHUNK_OF, newest])
                _put_first(state, queue, step[CHUNK_OF, newest])
    return int(state[CHUNKS])


@compiled
def prefill(state: IntArray, step: IntArray, requests: IntArray) -> tuple[int, int, int, int]:
    """Return, over the step's chunks, tokens, tokens stored before, query-key pairs, and prompts that end."""
    tokens = context = pairs = ending = 0
    for place in range(state[CHUNKS]):
        request, stored, chunk = step[CHUNK_OF, place], step[STORED, place], step[CHUNK, place]
        tokens += chunk
        context += stored
        pairs += chunk * stored + chunk * (chunk + 1) // 2
        ending += stored + chunk == requests[PROMPT, request] + requests[GENERATED, request]
    return int(tokens), int(context), int(pairs), int(ending)


@compiled
def _accepted(b: Ended, row: int, verified: int) -> int:
    """Return how many of the *verified* drafts of a row are accepted (section 6)."""
    if verified == 0:
        return 0
    plane = b.rows[PENDING, row] - 1 if b.state[PLANES] > 1 else 0
    place = (b.rows[DEPTHS, row] + b.rows[GENERATED, row]) & (b.depths.shape[1] - 1)
    return min(verified, int(b.depths[plane, place]))


@compiled
def _drafted(b: Ended, row: int, length: int) -> int:
    """Return the drafts that a row gets when asked for *length* (section 6)."""
    if length == 0 or b.state[PARTIAL] == 0:
        return length
    place = (b.rows[DEPTHS, row] + b.rows[GENERATED, row]) & (b.depths.shape[1] - 1)
    return length * int(b.depths[b.state[PLANES], place])


@compiled
def _finish(b: Ended, finished: int, request: int, now: float) -> int:
    """Free a request that has emitted all; return how many *finished* with it."""
    _give_back(b.state, b.requests, request)
    b.requests[REPLICA, request] = b.state[INDEX]
    b.times[FINISH, request] = now
    b.step[DONE, finished] = request
    return finished + 1


@compiled
def _emit(b: Ended, now: float, length: int, limited: bool) -> tuple[int, int, int, int, int]:
    """End the step of its rows (rules 7.1, 7.2 and 7.4).

    Return tokens emitted, drafts accepted, drafts tried, requests finished, and rows that were late. *limited*: the
    rows verify as many drafts as `step` says, instead of all. Each drafts *length*.
    """
    tokens = won = tried = finished = late = kept = 0
    for row in range(b.state[ROWS]):
        if row < b.state[DECODING]:
            request = b.rows[ID, row]
            verified = b.step[VERIFY, row] if limited else b.rows[PENDING, row]
            depth = _accepted(b, row, verified)
            emitted = min(depth + 1, b.rows[OUTPUT, row] - b.rows[GENERATED, row])
            b.step[TOLD, row], b.step[VERIFIED, row], b.step[ACCEPTED, row] = request, verified, depth
            tokens += emitted
            won += depth
            tried += depth + (depth < verified)
            b.rows[CONTEXT, row] += emitted
            b.rows[GENERATED, row] += emitted
            b.rows[STEPS, row] += 1
            if b.state[LATE] > 0:
                gap = _be_back(b, request, now)
                if not math.isnan(gap):
                    b.gaps[late] = gap
                    late += 1
            if b.rows[GENERATED, row] == b.rows[OUTPUT, row]:
                _copy(b.rows, row, b.requests, request)
                finished = _finish(b, finished, request, now)
                continue
            b.rows[PENDING, row] = _drafted(b, row, length)
        if kept < row:
            _copy(b.rows, row, b.rows, kept)
        kept += 1
    b.state[ROWS] = kept
    b.state[OUTSTANDING] -= tokens
    return tokens, won, tried, finished, late


@compiled
def _end_prompt(b: Ended, request: int, now: float, length: int) -> bool:
    """Emit the token after a prompt and make a row of the request (rule 7.3); return whether that was its last."""
    b.requests[GENERATED, request] += 1
    b.state[OUTSTANDING] -= 1
    if math.isnan(b.times[FIRST_TOKEN, request]):
        b.times[FIRST_TOKEN, request] = now
    if b.requests[GENERATED, request] == b.requests[OUTPUT, request]:
        return True
    row = b.state[ROWS]
    b.state[ROWS] += 1
    _copy(b.requests, request, b.rows, row)
    b.rows[PENDING, row] = _drafted(b, row, length)
    return False


@compiled
def conclude(
    state: IntArray, rows: IntArray, step: IntArray, gaps: FloatArray, requests: IntArray, times: FloatArray,
    depths: Depths, now: float, length: int, limited: bool,
) -> tuple[int, int, int, int, int, int, int, int]:  # fmt: skip
    """End the step at time *now* (section 7); see `_emit` for *length* and *limited*.

    Return, of the rows, tokens emitted, drafts accepted, drafts tried (a chain tries the first that it loses, and none
    behind it) and how many were late; requests finished; gaps noted; requests that wait; blocks in use.
    """
    b = Ended(state, rows, step, gaps, requests, times, depths)
    tokens, won, tried, finished, late = _emit(b, now, length, limited)
    noted = late
    for place in range(state[CHUNKS]):
        request = step[CHUNK_OF, place]
        requests[CONTEXT, request] += step[CHUNK, place]
        state[OUTSTANDING] -= step[CHUNK, place]
        if requests[CONTEXT, request] < requests[PROMPT, request] + requests[GENERATED, request]:
            state[HALF] = request
            continue
        if request == state[HALF]:
            state[HALF] = NONE
        last = _end_prompt(b, request, now, length)
        gap = _be_back(b, request, now)
        if not math.isnan(gap) and requests[GENERATED, request] > 1:
            gaps[noted] = gap
            noted += 1
        if last:
            finished = _finish(b, finished, request, now)
    state[CHUNKS] = 0
    used = state[TOTAL] - state[FREE]
    return int(tokens), int(won), int(tried), late, finished, noted, int(state[WAITING]), int(used)
