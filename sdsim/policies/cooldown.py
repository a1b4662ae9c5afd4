"""After another policy stops drafting, let it start again only `steps` steps later."""

from __future__ import annotations

from sdsim.policies.lengths import count
from sdsim.policies.plans import WARM
from sdsim.policies.wrapper import Inner, Wrapper, drafting_as
from sdsim.policy import Observation, Plan, StepCosts


class Cooldown(Wrapper):
    """Stay off for *steps* plans at least, with the drafter as the inner policy left it or wants it."""

    def __init__(self, cost: StepCosts, inner: Inner, steps: int = 64) -> None:
        super().__init__("cooldown", inner, cost)
        self._steps = count("steps", steps, 1)
        self._off: Plan = WARM
        self._left = 0
        self._drafted = False

    def plan(self, observation: Observation, /) -> Plan:
        """Return the inner plan, without drafts while it cools down."""
        wish = self.inner.plan(observation)
        if not wish.draft_length:
            self._off = wish
            self._left = self._steps if self._drafted else self._left
        self._drafted = bool(wish.draft_length) and not self._left
        self._left = max(self._left - 1, 0)
        return wish if self._drafted else drafting_as(wish, self._off)
