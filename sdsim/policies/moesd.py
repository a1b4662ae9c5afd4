"""Speculate by MoESD's predicted speedup (arXiv 2505.19645, eq. 4), a table by batch size alone.

speedup(B, K) = tokens per step x T_AR(B) / T_SD(B, K), against decoding with no drafter. Like the paper, it leaves the
KV length out: every batch is priced at one short context. The paper analyses and does not schedule; the reading taken
here is: draft argmax K while that speedup exceeds 1, else keep the drafter warm. Acceptance is learnt, or given.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.acceptance_estimate import AcceptanceEstimate
from sdsim.policies.lengths import draft_lengths, positive
from sdsim.policies.plans import uniform_plans
from sdsim.policies.priced import Priced, highest_goodput, price_against_off
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
        self._given = rate is not None
        self._acceptance = AcceptanceEstimate(0.7 if rate is None else rate)
        self._plans = uniform_plans(self.lengths)
        self._slowdowns = Priced(price_against_off(cost, self.lengths), positive("context", context))

    def plan(self, observation: Observation, /) -> Plan:
        """Return the length of the highest predicted speedup, 0 if none exceeds 1."""
        if not len(observation.request_ids):
            return self._plans[-1]
        tokens = self._acceptance.tokens(self.lengths)
        return self._plans[highest_goodput(tokens, self._slowdowns.of(observation))]

    def learn(self, outcome: Outcome, /) -> None:
        """Update the acceptance, unless it was given."""
        if not self._given:
            self._acceptance.update(outcome)
