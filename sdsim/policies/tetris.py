"""TETRIS (arXiv 2502.15197): a fixed number of drafts verified in all, those of the highest cumulative probability.

As in the authors' code, `extra` of the `length` drafts a row are there to choose among: the capacity is
(length - extra) x rows; `capacity` sets a number in its stead. Below `from_batch` rows all drafts are verified. The
ranking takes the drafter's probabilities as they are, uncalibrated.

Not lossless at temperature: it ranks by the probability of the token drawn, so unlikely draws are pruned more often.
"""

from __future__ import annotations

import numpy as np

from sdsim.policies.confidence import confidences, survival
from sdsim.policies.lengths import count, draft_length
from sdsim.policies.plans import uniform
from sdsim.policies.selection import top_prefixes
from sdsim.policy import Observation, Plan, learn_nothing


class Tetris:
    """Verify the likeliest drafts of the batch up to a capacity."""

    needs = frozenset({"confidence"})
    lossless_at_temperature = False

    def __init__(self, length: int = 4, extra: int = 1, capacity: int | None = None, from_batch: int = 1) -> None:
        self.lengths = tuple(sorted({0, draft_length(length)}))
        self.label = "tetris"
        if count("extra", extra) > length:
            raise ValueError(f"extra {extra}; allowed: at most the length, {length}")
        self._each = length - extra
        self._capacity = None if capacity is None else count("capacity", capacity)
        self._from_batch = count("from_batch", from_batch)
        self._plan = uniform(length)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the verify lengths of the top drafts."""
        drafts = int(np.add.reduce(observation.pending))
        capacity = self._each * observation.batch if self._capacity is None else self._capacity
        if drafts <= capacity or observation.batch < self._from_batch:
            return self._plan
        alive = survival(confidences(observation), observation.pending, drafts)
        return self._plan._replace(verify_lengths=top_prefixes(alive, capacity))

    learn = learn_nothing
