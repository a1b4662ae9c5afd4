"""SmartSpec / TurboSpec (arXiv 2406.14066): the draft length with the most tokens per second, priced at every step.

K* = argmax over K of n (1 - a^(K+1)) / (1 - a) / T(n, K, context), with a the running mean acceptance and T the
calibrated step time. As in the authors' public fork, K = 0 counts `margin` times (1.1: speculation must win by 10%).
"""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.policies.acceptance_estimate import AcceptanceEstimate
from sdsim.policies.lengths import draft_lengths, positive
from sdsim.policies.plans import uniform_plans
from sdsim.policies.position_acceptance import PositionAcceptance
from sdsim.policies.priced import Priced, highest_goodput, price_lengths
from sdsim.policy import Observation, Outcome, Plan, StepCosts


class Goodput:
    """Maximise expected tokens over step time, row count and mean context being what they are now."""

    lossless_at_temperature = True

    def __init__(
        self, cost: StepCosts, lengths: Sequence[int] = (0, 1, 2, 3, 4), prior: float = 0.7, margin: float = 1.1
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "goodput"
        self._margin = positive("margin", margin)
        self._acceptance: AcceptanceEstimate | PositionAcceptance = AcceptanceEstimate(prior)
        self._plans = uniform_plans(self.lengths)
        self._seconds = Priced(price_lengths(cost, self.lengths))

    def plan(self, observation: Observation, /) -> Plan:
        """Return the length of the highest goodput."""
        if not len(observation.request_ids):
            return self._plans[-1]
        tokens = self._acceptance.tokens(self.lengths)
        return self._plans[highest_goodput(tokens, self._seconds.of(observation), self._margin)]

    def learn(self, outcome: Outcome, /) -> None:
        """Update the acceptance."""
        self._acceptance.update(outcome)
