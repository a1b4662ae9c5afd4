"""Let another policy change the draft length at most every `steps` steps."""

from __future__ import annotations

from sdsim.policies.lengths import count
from sdsim.policies.wrapper import Inner, Wrapper, drafting_as, rank
from sdsim.policy import Observation, Plan, StepCosts


class MinDwell(Wrapper):
    """Keep a draft length for *steps* plans at least."""

    def __init__(self, cost: StepCosts, inner: Inner, steps: int = 16) -> None:
        super().__init__("min-dwell", inner, cost)
        self._steps = count("steps", steps, 1)
        self._held: Plan | None = None
        self._age = 0

    def plan(self, observation: Observation, /) -> Plan:
        """Return the inner plan, its draft length held until it is old enough."""
        wish = self.inner.plan(observation)
        if self._held is None or (rank(wish) != rank(self._held) and self._age >= self._steps):
            self._held, self._age = wish, 0
        self._age += 1
        return drafting_as(wish, self._held)
