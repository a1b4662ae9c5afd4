"""What only a simulation knows: the acceptance that a run's requests really have, for oracles to plan by.

It draws for the requests what the engine draws for them, and so agrees with it coin by coin.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sdsim.acceptance import Acceptance
from sdsim.policy import FloatArray, IntArray
from sdsim.workload import Requests


class LatentTruth:
    """Implements `sdsim.policy.Truth` for the requests *watched*, whose ids count from 0."""

    def __init__(self, law: Acceptance) -> None:
        self._law = law
        self._rates = np.empty(0)
        self._starts: IntArray = np.empty(0, dtype=np.int64)
        self._depths = np.empty((law.planes, 0), dtype=np.uint8)

    def watched(self, arrivals: Iterator[Requests]) -> Iterator[Requests]:
        """Yield *arrivals*, remembering what they will accept."""
        law = self._law
        for chunk in arrivals:
            ids, classes = chunk.ids, chunk.request_class
            depths, offsets = law.depths(ids, chunk.output_tokens, classes)
            self._starts = np.concatenate([self._starts, self._depths.shape[1] + offsets[:-1]])
            self._depths = np.concatenate([self._depths, depths], axis=1)
            if law.positions is None:
                self._rates = np.concatenate([self._rates, law.request_rates(ids, classes)])
            yield chunk

    def depths(self, request_ids: IntArray, generated: IntArray, pending: IntArray) -> IntArray:
        """See `sdsim.policy.Truth.depths`."""
        plane = np.minimum(np.maximum(pending, 1), self._law.planes) - 1
        depths = self._depths[plane, self._starts[request_ids] + generated]
        accepted: IntArray = np.minimum(depths, pending, dtype=np.int64)
        return accepted

    def rates(self, request_ids: IntArray, length: int) -> FloatArray:
        """See `sdsim.policy.Truth.rates`."""
        if self._law.positions is None:
            return np.repeat(self._rates[request_ids][:, None], length, axis=1)
        plane = self._law.positions[min(max(length, 1), self._law.planes) - 1]
        return np.tile(plane[:length], (len(request_ids), 1))

    def chances(self, request_ids: IntArray, generated: IntArray, length: int) -> FloatArray:
        """See `sdsim.policy.Truth.chances`."""
        return self._law.chances(self.rates(request_ids, length), request_ids, generated)
