"""SmartSpec / TurboSpec (arXiv 2406.14066): the draft length with the most tokens per second, priced at every step.

K* = argmax over K of n (1 - a^(K+1)) / (1 - a) / T(n, K, context), with a the running mean acceptance and T the
calibrated step time. As in the authors' public fork, K = 0 counts `margin` times (1.1: speculation must win by 10%).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.policies.acceptance_estimate import AcceptanceEstimate, tokens_per_step
from sdsim.policies.lengths import draft_lengths, positive
from sdsim.policy import Observation, Outcome, Plan, StepCosts

CONTEXT_BUCKET = 64
REMEMBERED = 20_000


class Goodput:
    """Maximise expected tokens over step time, row count and mean context being what they are now."""

    lossless_at_temperature = True

    def __init__(
        self, cost: StepCosts, lengths: Sequence[int] = (0, 1, 2, 3, 4), prior: float = 0.7, margin: float = 1.1
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "goodput"
        self._cost, self._margin = cost, positive("margin", margin)
        self._acceptance = AcceptanceEstimate(prior)
        self._plans = [Plan(k, drafter="on" if k else "warm") for k in self.lengths]
        self._seconds: dict[tuple[int, int], list[float]] = {}

    def plan(self, observation: Observation, /) -> Plan:
        """Return the length of the highest goodput."""
        rows = len(observation.request_ids)
        if not rows:
            return self._plans[-1]
        bucket = int(np.add.reduce(observation.context_lengths)) // (rows * CONTEXT_BUCKET)
        seconds = self._seconds.get((rows, bucket)) or self._price(rows, bucket)
        rate = self._acceptance.rate
        best, best_goodput = 0, self._margin / seconds[0]
        for i in range(1, len(seconds)):
            goodput = tokens_per_step(rate, self.lengths[i]) / seconds[i]
            if goodput > best_goodput:
                best, best_goodput = i, goodput
        return self._plans[best]

    def _price(self, rows: int, bucket: int) -> list[float]:
        if len(self._seconds) >= REMEMBERED:
            self._seconds.clear()
        context = (bucket + 0.5) * CONTEXT_BUCKET
        seconds = [self._cost.step_seconds(rows, k, context) for k in self.lengths]
        self._seconds[rows, bucket] = seconds
        return seconds

    def learn(self, outcome: Outcome, /) -> None:
        """Update the acceptance."""
        self._acceptance.update(outcome)
