"""How fast a row has to emit, from its slack."""

from __future__ import annotations

import math

from sdsim.policy import Observation


class Pace:
    """The TPOT target behind `Observation.slo_slack`, which grows by it with each token and shrinks as time passes.

    It is read off the oldest row whenever the step before had the same one: (slack + now) has grown by
    the target times the tokens that the row emitted.
    """

    def __init__(self) -> None:
        self.tpot_s: float | None = None
        """The target, s; None until two steps have shown it, or without one."""
        self._before: tuple[int, int, float] | None = None

    def see(self, observation: Observation) -> None:
        """Take in a step's oldest row."""
        if observation.slo_slack is None or not observation.batch:
            self._before = None
            return
        row, tokens = int(observation.request_ids[0]), int(observation.generated[0])
        earned = float(observation.slo_slack[0]) + observation.now
        if self._before is not None and self._before[0] == row and tokens > self._before[1]:
            target = (earned - self._before[2]) / (tokens - self._before[1])
            self.tpot_s = target if 0.0 < target < math.inf else self.tpot_s
        self._before = (row, tokens, earned)
