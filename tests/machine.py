"""What the machine that the tests run on does in a given time: limits in seconds are for an idle one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

ENTRIES = np.random.default_rng(0).uniform(0, 1, 2048)


def best_seconds(work: Callable[[], object], repeats: int = 150) -> float:
    """Return the least CPU time of *work*, s."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def plan_budget(sums: int = 3) -> float:
    """Return the time for a plan, s: 50 us, or what *sums* such as any rule over 256 rows needs take here and now."""
    return max(50e-6, sums * best_seconds(lambda: np.cumsum(np.sort(np.exp(np.log(ENTRIES))))))
