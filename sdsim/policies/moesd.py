"""Speculate by MoESD's predicted speedup (arXiv 2505.19645, eq. 4), a table by batch size alone.

speedup(B, K) = tokens per step x T_AR(B) / T_SD(B, K), against decoding with no drafter. Like the paper, it leaves the
KV length out: every batch is priced at one short context. The paper analyses and does not schedule; the reading taken
here is: draft argmax K while that speedup exceeds 1, else keep the drafter warm. Acceptance is learnt, or given.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.acceptance_estimate import AcceptanceEstimate, tokens_per_step
from sdsim.policies.lengths import draft_lengths, positive
from sdsim.policy import Observation, Outcome, Plan, StepCosts


class Moesd:
    """Maximise the predicted speedup at the current batch size."""

    lossless_at_temperature = True

    def __init__(
        self,
        cost: StepCosts,
        lengths: Sequence[int] = (0, 1, 2, 3, 4),
        rate: float | None = None,
        context: float = 128,
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "moesd"
        self._cost, self._context = cost, positive("context", context)
        self._given = rate is not None
        self._acceptance = AcceptanceEstimate(0.7 if rate is None else rate)
        self._plans = [Plan(k, drafter="on" if k else "warm") for k in self.lengths]
        self._ratios: dict[int, list[float]] = {}

    def plan(self, observation: Observation, /) -> Plan:
        """Return the length of the highest predicted speedup, 0 if none exceeds 1."""
        rows = len(observation.request_ids)
        if not rows:
            return self._plans[-1]
        ratios = self._ratios.get(rows) or self._price(rows)
        rate = self._acceptance.rate
        best, best_speedup = 0, 1.0
        for i in range(1, len(ratios)):
            speedup = tokens_per_step(rate, self.lengths[i]) * ratios[i]
            if speedup > best_speedup:
                best, best_speedup = i, speedup
        return self._plans[best]

    def _price(self, rows: int) -> list[float]:
        base = self._cost.off_seconds(rows, self._context)
        ratios = [base / self._cost.step_seconds(rows, k, self._context) for k in self.lengths]
        self._ratios[rows] = ratios
        return ratios

    def learn(self, outcome: Outcome, /) -> None:
        """Update the acceptance, unless it was given."""
        if not self._given:
            self._acceptance.update(outcome)
