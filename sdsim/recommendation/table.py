"""The draft length of each batch size: by prices, and the near-equal alternatives that a simulation decides among.

Of a batch of B rows, tokens(K) / T(B, K) is both throughput and the inverse of TPOT, so that one table serves either
goal, as far as prices go. What they leave out, prompts in the same steps, memory, and bursts, the simulator knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdsim.latency.prices import Prices
from sdsim.policy import FloatArray, IntArray

NEAR = 0.01
"""Share of the highest tokens/s that an alternative may give up at a batch size, by its price."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What a step takes at each batch size from 1 and each draft length, the drafter being loaded."""

    lengths: tuple[int, ...]
    """Ascending, with 0, which keeps the drafter warm."""
    seconds: FloatArray
    """(batch sizes, lengths), s."""

    def table(self, tokens: FloatArray) -> IntArray:
        """Return (batch sizes,) the draft length of the most tokens/s; *tokens* are those of a row at each length."""
        chosen: IntArray = np.array(self.lengths)[np.argmax(tokens / self.seconds, axis=1)]
        return chosen

    def alternatives(self, tokens: FloatArray, first: int, last: int) -> list[IntArray]:
        """Return the tables that take the shortest, and the longest, of the lengths within NEAR of the best.

        They differ from `table` at batch sizes *first* to *last* only, what runs can tell of. One equal to it is left
        out.
        """
        best, rates = self.table(tokens), tokens / self.seconds
        near = rates >= (1 - NEAR) * rates.max(axis=1, keepdims=True)
        shortest, longest = np.argmax(near, axis=1), near.shape[1] - 1 - np.argmax(near[:, ::-1], axis=1)
        batches = np.arange(1, len(best) + 1)
        seen = (first <= batches) & (batches <= last)
        found = [np.where(seen, np.array(self.lengths)[places], best) for places in (shortest, longest)]
        return [table for table in found if not np.array_equal(table, best)]


def step_times(
    prices: Prices, max_num_seqs: int, lengths: tuple[int, ...], context: float, available: float = 1.0
) -> StepTimes:
    """Price steps of 1 to *max_num_seqs* rows at mean *context*, of which the share *available* has drafts."""
    seconds = [
        [prices.verify_seconds(b, b + round(available * b * k), context, 0, k) for k in lengths]
        for b in range(1, max_num_seqs + 1)
    ]
    return StepTimes(lengths, np.array(seconds))
