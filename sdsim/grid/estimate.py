"""What a sweep will cost, from a few of its cells run here: processor time, and memory of a process."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdsim.experiment import Cell
from sdsim.grid.table import outcome

SAMPLES = 5
ENOUGH_S = 10.0
"""Seconds after which no further cell is timed."""
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """Processor seconds of the cells that were timed, and the most memory that this process took, bytes."""

    seconds: tuple[float, ...]
    memory_bytes: int

    @property
    def mean_s(self) -> float:
        """Processor seconds of a cell."""
        return float(np.mean(self.seconds))


def estimate(todo: Sequence[Cell]) -> Estimate:
    """Time a few cells of *todo*, spread over it so that no axis is met at one value only."""
    places = dict.fromkeys(int((i + 1) * _GOLDEN % 1 * len(todo)) for i in range(SAMPLES))
    seconds: list[float] = []
    for place in places:
        started = time.process_time()
        outcome(todo[place])
        seconds.append(time.process_time() - started)
        if sum(seconds) > ENOUGH_S:
            break
    steady = seconds[1:] or seconds  # the first reads files that a process keeps
    unit = 1 if sys.platform == "darwin" else 1024
    return Estimate(tuple(steady), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
