"""What the machine that the tests run on does in a given time: limits in seconds are for an idle one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

TRIES, PAUSE_S = 20, 0.1
ENTRIES = np.random.default_rng(0).uniform(0, 1, 2048)


def best_seconds(work: Callable[[], object], repeats: int = 150) -> float:
    """Return the least CPU time of *work*, s."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def plan_budget(sums: float = 3, idle_s: float = 50e-6) -> float:
    """Return the time for a plan, s: *idle_s*, or what *sums* such as a rule over 256 rows needs take here and now."""
    return max(idle_s, sums * best_seconds(lambda: np.cumsum(np.sort(np.exp(np.log(ENTRIES))))))


def assert_in_budget(seconds: Callable[[], float], sums: float = 3, idle_s: float = 50e-6) -> None:
    """Assert that work which takes *seconds* of CPU time keeps within `plan_budget`.

    Both are measured one right behind the other, since who else is on the machine slows both; again after a pause where
    it fails, since that may have come in between. What is too slow by itself fails each time.
    """
    for _ in range(TRIES):
        took, allowed = seconds(), plan_budget(sums, idle_s)
        if took <= allowed:
            return
        time.sleep(PAUSE_S)
    raise AssertionError(f"a plan takes {took * 1e6:.1f} us; allowed: {allowed * 1e6:.1f} us")
