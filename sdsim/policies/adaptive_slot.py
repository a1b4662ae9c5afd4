"""The rule by which SGLang adapts the draft length of one range of batch sizes (`adaptive_spec_params.py`, 0.5.23).

An exponential moving average of the mean accepted drafts of a batch starts one below the first length. After
`warmup_batches` batches, every `update_interval`, the length steps down while the average <= the next shorter length
- 0.5 + down_hysteresis (just 0.5 + down_hysteresis if that length is 0), else up while the average > its length - 0.5
+ up_hysteresis. `ceiling_coeff` c > 0 also cuts it to max(1, ceil(c x average)), never against a step up. From length
0, where nothing is learnt, the next update probes the smallest positive length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sdsim.policies.lengths import count

SETTINGS = {
    "ema_alpha": 0.2,
    "update_interval": 5,
    "warmup_batches": 10,
    "up_hysteresis": 0.0,
    "down_hysteresis": -0.25,
    "ceiling_coeff": 0.0,
}


class AdaptiveSlot:
    """The draft length of one range of batch sizes."""

    def __init__(self, settings: Mapping[str, Any], initial: int | None) -> None:
        self.candidates: list[int] = settings["candidate_steps"]
        numbers = {key: settings[key] for key in SETTINGS}
        for key, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{key} {value!r}; allowed: a number")
        self._alpha, self._up, self._down = numbers["ema_alpha"], numbers["up_hysteresis"], numbers["down_hysteresis"]
        self._interval = count("update_interval", numbers["update_interval"], 1)
        self._warmup, self._ceiling = count("warmup_batches", numbers["warmup_batches"]), numbers["ceiling_coeff"]
        middle = self.candidates[len(self.candidates) // 2]
        self.steps = initial if initial is not None and initial in self.candidates else middle
        self.average = self.steps - 1.0
        self._batches = 0

    def update(self, accepted: float | None) -> None:
        """Take in the mean accepted drafts of a batch, None if it verified nothing."""
        if self.steps and accepted is not None:
            self.average = (1 - self._alpha) * self.average + self._alpha * accepted
        self._batches += 1
        due = self._batches - self._warmup
        if due > 0 and due % self._interval == 0:
            self.steps = self._next()

    def _next(self) -> int:
        candidates, average = self.candidates, self.average
        start = index = candidates.index(self.steps)
        if not self.steps:
            return self._probe(candidates[min(index + 1, len(candidates) - 1)])
        while index and average <= (candidates[index - 1] - 0.5 if candidates[index - 1] else 0.5) + self._down:
            index -= 1
        while index >= start and index < len(candidates) - 1 and average > candidates[index] - 0.5 + self._up:
            index += 1
        ceiling = max(1, math.ceil(average * self._ceiling))
        while self._ceiling > 0 and index <= start and index and candidates[index] > ceiling:
            index -= 1
        return candidates[index]

    def _probe(self, target: int) -> int:
        if target and self.average < 0:
            self.average = target - 1.0
        return target
