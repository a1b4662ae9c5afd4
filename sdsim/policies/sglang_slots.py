"""SGLang's adaptive configuration: settings per batch slot, and which slot a batch belongs to.

`--speculative-adaptive-config` (SGLang PRs 21599 and 24055, in 0.5.23): a mapping whose keys are batch sizes, as text
or integers, each the lower bound of a slot with its own settings; other keys are settings of all slots. A batch is
padded to the captured graph sizes, and belongs to the slot with the largest key at or below that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from sdsim.errors import unknown
from sdsim.policies.lengths import draft_length

Slot = TypeVar("Slot")
GRAPH_BATCHES = (*range(1, 9), *range(10, 33, 2), *range(40, 65, 4), *range(72, 257, 8), *range(272, 513, 16))
"""Batch sizes that SGLang captures for decoding with speculation, by default."""


class Slots(Generic[Slot]):
    """One *slot* for each lower bound, found by batch size."""

    def __init__(self, by_batch: Mapping[int, Slot]) -> None:
        self._bounds = sorted(by_batch)
        self.all = [by_batch[bound] for bound in self._bounds]

    def of(self, batch: int) -> Slot:
        """Return the slot of *batch* rows."""
        index = bisect_left(GRAPH_BATCHES, batch)
        padded = GRAPH_BATCHES[index] if index < len(GRAPH_BATCHES) else batch
        return self.all[max(bisect_right(self._bounds, padded) - 1, 0)]


def slot_settings(config: Mapping[Any, Any], defaults: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the settings of each slot of *config* over those for all slots over *defaults*, or raise ValueError."""
    if not isinstance(config, Mapping):
        raise ValueError(f"config {config!r}; allowed: a mapping of batch sizes, {{'1': {{candidate_steps: [1, 3]}}}}")
    common = {key: value for key, value in config.items() if not str(key).isdigit()}
    slots = {int(key): value for key, value in config.items() if str(key).isdigit()}
    if not slots:
        raise ValueError("config has no batch size among its keys; add one, '1': {candidate_steps: [1, 3]}")
    for batch, entry in slots.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"config {batch}: {entry!r}; allowed: a mapping with candidate_steps")
        for key in (*common, *entry):
            if key not in (*defaults, "candidate_steps"):
                raise ValueError(f"config {batch}: {unknown('key', str(key), (*defaults, 'candidate_steps'))}")
    merged = {batch: {**defaults, **common, **entry} for batch, entry in slots.items()}
    for batch, settings in merged.items():
        settings["candidate_steps"] = _steps(batch, settings.get("candidate_steps"))
    return merged


def _steps(batch: int, steps: object) -> Sequence[int]:
    if not isinstance(steps, list | tuple) or not steps:
        raise ValueError(f"config {batch}: candidate_steps {steps!r}; allowed: a list of draft lengths")
    return sorted({draft_length(step) for step in steps})
