"""SGLang's `--speculative-adaptive` (PRs 21599 and 24055, in 0.5.23): draft lengths from the accepted length alone.

Each slot of batch sizes adapts a length of its own (`adaptive_slot.py`). It starts at `initial_steps`, or else at its
middle candidate. Nothing is priced.

A step here verifies what the step before drafted, perhaps in another slot. So rows count at most the slot's own
length, and a step that verified nothing counts as a batch but leaves the average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sdsim.policies.adaptive_slot import SETTINGS, AdaptiveSlot
from sdsim.policies.ledger import Newest
from sdsim.policies.lengths import draft_length
from sdsim.policies.plans import uniform
from sdsim.policies.sglang_slots import Slots, slot_settings
from sdsim.policy import Observation, Outcome, Plan

CONFIG: dict[str, dict[str, Any]] = {
    "1": {"candidate_steps": [1, 3, 5, 7]},
    "8": {"candidate_steps": [0, 1, 3], "down_hysteresis": 0.0},
    "32": {"candidate_steps": [0, 1], "down_hysteresis": 0.0},
    "64": {"candidate_steps": [0], "down_hysteresis": 0.0},
}
"""SGLang's default."""


class SglangAdaptive:
    """Draft the current length of the batch's slot."""

    lossless_at_temperature = True

    def __init__(self, config: Mapping[str, Any] = CONFIG, initial_steps: int | None = None) -> None:
        initial = None if initial_steps is None else draft_length(initial_steps)
        self._slots = Slots({b: AdaptiveSlot(s, initial) for b, s in slot_settings(config, SETTINGS).items()})
        self.lengths = tuple(sorted({0}.union(*(slot.candidates for slot in self._slots.all))))
        self.label = "sglang-adaptive"
        self._newest = Newest()

    def plan(self, observation: Observation, /) -> Plan:
        """Return the length of the slot of the decode rows."""
        return uniform(self._slots.of(len(observation.request_ids)).steps)

    def learn(self, outcome: Outcome, /) -> None:
        """Feed the slot of the outcome's rows."""
        rows = len(outcome.request_ids)
        if not rows or not self._newest.passes(outcome):
            return
        slot = self._slots.of(rows)
        accepted = np.minimum(outcome.accepted, slot.steps)
        slot.update(int(np.add.reduce(accepted)) / rows if outcome.verified.any() else None)
