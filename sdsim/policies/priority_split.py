"""Seer's marginal-benefit-aware speculation (arXiv 2511.14617 v3, algorithm 1): a draft budget split by priority.

g* = argmin over g <= `longest` of T(B, g) / tokens(g) sets the budget of g* B drafts; none if g* is 0. High- and
low-priority rows get one draft each; then, while budget is left, one more for all rows of a class: the high class if
weight x a[g_h + 1] > a[g_l + 1], the low one otherwise, a[j] being the learnt chance that draft j survives.

Readings taken. Priority is that of Seer's length probes, which serving traffic has none of: here a row is of high
priority while it is behind its TPOT target (negative `slo_slack`), and without a target none is. The paper prints
"benefit_h > lambda benefit_l" with benefits summed over the rows of a class, which starves the small class that its
text favours; here benefits are per draft, and the weight raises the high class. The engine drafts the longer length
for all rows, and the verify lengths keep to the classes.
"""

from __future__ import annotations

import numpy as np

from sdsim.policies.lengths import draft_length, positive
from sdsim.policies.plans import uniform
from sdsim.policies.position_acceptance import PositionAcceptance
from sdsim.policies.priced import Priced, highest_goodput, price_lengths
from sdsim.policy import Observation, Outcome, Plan, StepCosts


class PrioritySplit:
    """Split the best draft budget between rows behind their target and the others."""

    needs = frozenset({"slo_slack"})
    lossless_at_temperature = True

    def __init__(self, cost: StepCosts, longest: int = 8, weight: float = 2.0, prior: float = 0.7) -> None:
        self.lengths = tuple(range(draft_length(longest) + 1))
        self.label = "priority-split"
        self._weight = positive("weight", weight)
        self._acceptance = PositionAcceptance(longest, prior)
        self._seconds = Priced(price_lengths(cost, self.lengths))

    def plan(self, observation: Observation, /) -> Plan:
        """Return the longer length to draft, and verify lengths by priority."""
        rows, slack = len(observation.request_ids), observation.slo_slack
        if not rows:
            return uniform(self.lengths[-1])
        tokens = self._acceptance.tokens(self.lengths)
        each = highest_goodput(tokens, self._seconds.of(observation))
        behind = np.zeros(rows, dtype=bool) if slack is None else slack < 0
        high, low = self._split(each, int(np.count_nonzero(behind)), rows, tokens)
        verified = np.minimum(np.where(behind, high, low), observation.pending)
        return uniform(max(high, low))._replace(verify_lengths=verified)

    def _split(self, each: int, urgent: int, rows: int, tokens: list[float]) -> tuple[int, int]:
        """Return the lengths of the *urgent* rows and of the others, *each* being the best for all."""
        if not 0 < urgent < rows or not each:
            return each, each
        others, longest, left = rows - urgent, self.lengths[-1], (each - 1) * rows
        survival = [after - before for before, after in zip(tokens, [*tokens[1:], tokens[-1]], strict=True)]
        high = low = 1
        while True:
            if self._weight * survival[high] > survival[low] and high < longest and left >= urgent:
                high, left = high + 1, left - urgent
            elif low < longest and left >= others:
                low, left = low + 1, left - others
            else:
                return high, low

    def learn(self, outcome: Outcome, /) -> None:
        """Update the acceptance."""
        self._acceptance.update(outcome)
