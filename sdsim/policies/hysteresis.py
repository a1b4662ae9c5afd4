"""Follow another policy only when it insists: a longer draft after `up` plans in a row, a shorter one after `down`.

Draft lengths that differ in one direction count together; a plan for the present length starts the count anew. Loading
a dropped drafter counts as up, dropping one as down.
"""

from __future__ import annotations

from sdsim.policies.lengths import count
from sdsim.policies.wrapper import Inner, Wrapper, drafting_as, rank
from sdsim.policy import Observation, Plan, StepCosts


class Hysteresis(Wrapper):
    """Change the draft length after the inner policy asked for it *up* or *down* times running."""

    def __init__(self, cost: StepCosts, inner: Inner, up: int = 8, down: int = 2) -> None:
        super().__init__("hysteresis", inner, cost)
        self._up, self._down = count("up", up, 1), count("down", down, 1)
        self._held: Plan | None = None
        self._insisted = 0
        """Plans in a row above the held one; negative for plans below."""

    def plan(self, observation: Observation, /) -> Plan:
        """Return the inner plan, its draft length held back."""
        wish = self.inner.plan(observation)
        held = self._held or wish
        difference = rank(wish) - rank(held)
        if difference > 0:
            self._insisted = max(self._insisted, 0) + 1
        elif difference < 0:
            self._insisted = min(self._insisted, 0) - 1
        if not difference or not -self._down < self._insisted < self._up:
            held, self._insisted = wish, 0
        self._held = held
        return drafting_as(wish, held)
