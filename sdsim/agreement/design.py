"""Points at which to measure steps: a seeded Latin hypercube over batch, draft length and context.

Each of n points takes its own of n equal parts of the logarithm of the batch and of the context (McKay, Beckman and
Conover 1979), and draft lengths occur equally often: few points then cover each axis evenly and no two share a stratum.
A context's range ends where the GPU's KV memory does, so it depends on the batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sdsim.streams import stream

LARGEST_BATCH, LONGEST_DRAFT = 256, 8
CONTEXTS = (128, 4096)


class Point(NamedTuple):
    """One step to measure: *context* tokens are stored for each of *batch* sequences."""

    batch: int
    draft_length: int
    context: int


def stratified_points(count: int, kv_tokens: float, positions: int = CONTEXTS[1], seed: int = 0) -> list[Point]:
    """Return *count* points that fit into *kv_tokens* tokens of KV, 1 + 2 x draft length a row included.

    No sequence is longer than *positions*. A batch for which not even the shortest context fits is made smaller. Raises
    ValueError if no row fits.
    """
    random = stream(seed, "points")
    batches, contexts = ((random.permutation(count) + random.random(count)) / count for _ in range(2))
    lengths = random.permutation(np.arange(count) % (LONGEST_DRAFT + 1))
    return [_point(b, int(k), c, kv_tokens, positions) for b, k, c in zip(batches, lengths, contexts, strict=True)]


def _point(batch_part: float, length: int, context_part: float, room: float, positions: int) -> Point:
    shortest, longest = CONTEXTS
    ahead = 1 + 2 * length
    most = min(LARGEST_BATCH, int(room // (shortest + ahead)))
    if most < 1 or positions < shortest + ahead:
        found = f"{room:.0f} tokens of KV and {positions} positions"
        raise ValueError(f"{found} hold no row of {shortest} tokens with {length} drafts")
    batch = min(round(_between(1, LARGEST_BATCH, batch_part)), most)
    high = min(longest, positions - ahead, int(room // batch) - ahead)
    return Point(batch, length, round(_between(shortest, high, context_part)))


def _between(low: float, high: float, part: float) -> float:
    """Return the point of [low, high] at *part* of its logarithm."""
    return low * math.exp(part * math.log(high / low))
