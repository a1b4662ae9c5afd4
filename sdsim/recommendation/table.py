"""The draft length of each batch size, by prices.

Of a batch of B rows, tokens(K) / T(B, K) is both throughput and the inverse of TPOT, so that one table serves either
goal, as far as prices go. What they leave out, prompts in the same steps, memory, and bursts, the simulator knows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdsim.latency.prices import Prices
from sdsim.policy import FloatArray, IntArray

NEAR = 0.005
"""Share of the highest tokens/s that a batch size may give up for fewer ranges: less than prices are known to."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What a step takes at each batch size from 1 and each draft length, the drafter being loaded."""

    lengths: tuple[int, ...]
    """Ascending, with 0, which keeps the drafter warm."""
    seconds: FloatArray
    """(batch sizes, lengths), s."""

    def table(self, tokens: FloatArray) -> IntArray:
        """Return (batch sizes,) the draft lengths of the most tokens/s, or NEAR it, in the fewest ranges.

        *tokens* are those of a row at each length. From each range's start the length that stays near the best for the
        most batch sizes is taken, which no other choice undercuts.
        """
        rates = tokens / self.seconds
        near = rates >= (1 - NEAR) * rates.max(axis=1, keepdims=True)
        lasting = np.zeros((len(near) + 1, near.shape[1]), dtype=np.int64)
        for batch in range(len(near) - 1, -1, -1):
            lasting[batch] = np.where(near[batch], lasting[batch + 1] + 1, 0)
        chosen, batch = np.zeros(len(near), dtype=np.int64), 0
        while batch < len(near):
            place = int(np.argmax(lasting[batch]))
            end = batch + int(lasting[batch, place])
            chosen[batch:end], batch = self.lengths[place], end
        return chosen


def step_times(
    prices: Prices, max_num_seqs: int, lengths: tuple[int, ...], context: float, available: float = 1.0
) -> StepTimes:
    """Price steps of 1 to *max_num_seqs* rows at mean *context*, of which the share *available* has drafts."""
    seconds = [
        [prices.verify_seconds(b, b + round(available * b * k), context, 0, k) for k in lengths]
        for b in range(1, max_num_seqs + 1)
    ]
    return StepTimes(lengths, np.array(seconds))
