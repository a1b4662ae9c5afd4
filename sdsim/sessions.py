"""Sessions of several turns: each turn's prompt is all that was said before it, and what the user adds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sdsim.policy import FloatArray, IntArray
from sdsim.streams import stream

BLOCK_TOKENS = 128
"""Tokens of a prefix block."""
IDS_PER_SESSION = 1 << 32


class Turns(NamedTuple):
    """Turns, session after session; the arrays are aligned."""

    session: IntArray
    arrival_s: FloatArray
    """Of first turns; NaN for the others."""
    think_s: FloatArray
    """Between an answer and the turn after it; NaN for first turns."""


def turns(starts: Iterator[FloatArray], seed: int, mean_turns: float, think_s: float) -> Iterator[Turns]:
    """Yield the turns of the sessions that begin at *starts*: a geometric number each, exponential times to think."""
    counts, thinks = stream(seed, "turns"), stream(seed, "think")
    begun = 0
    for times in starts:
        each = counts.geometric(1 / mean_turns, len(times))
        session = np.repeat(np.arange(begun, begun + len(times)), each)
        first = np.zeros(len(session), dtype=bool)
        first[np.cumsum(each) - each] = True
        waits = thinks.exponential(think_s, len(session))
        yield Turns(session, np.where(first, np.repeat(times, each), np.nan), np.where(first, np.nan, waits))
        begun += len(times)


def whole_prompts(session: IntArray, added: IntArray, answers: IntArray) -> IntArray:
    """Return the prompts of turns that add so many tokens and are answered by so many."""
    said = np.cumsum(added + answers)
    places = np.flatnonzero(np.diff(session, prepend=session[:1] - 1))
    before = np.repeat((said - added - answers)[places], np.diff(places, append=len(session)))
    prompts: IntArray = said - before - answers
    return prompts


def block_ids(session: IntArray, stored: IntArray) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """Return the blocks of turns that store so many tokens in the end: those of a session go on from turn to turn."""
    found = np.empty(len(session), dtype=object)
    for i, (number, tokens) in enumerate(zip(session.tolist(), stored.tolist(), strict=True)):
        start = number * IDS_PER_SESSION
        found[i] = range(start, start + tokens // BLOCK_TOKENS)
    return found
