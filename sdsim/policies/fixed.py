"""One draft length for every step, as engines' `num_speculative_tokens`. Length 0 keeps the drafter warm."""

from __future__ import annotations

from sdsim.policies.lengths import draft_length
from sdsim.policies.plans import uniform
from sdsim.policy import Observation, Plan, learn_nothing


class Fixed:
    """Draft *length* tokens a row, always."""

    lossless_at_temperature = True
    constant_while = "batch"

    def __init__(self, length: int) -> None:
        self.lengths = tuple(sorted({0, draft_length(length)}))
        self.label = f"fixed-{length}"
        self._plan = uniform(length)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the one plan."""
        return self._plan

    learn = learn_nothing
