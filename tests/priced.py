"""Runs whose steps take what a test says: a price by shape in place of a GPU's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from sdsim.result import Result
from sdsim.scenario import Scenario
from sdsim.simulation import make_system, simulate
from sdsim.step import StepShape
from tests.naive import Pools


class Priced:
    """A latency model that is one function of a step's shape."""

    works_ahead = False

    def __init__(self, seconds: Callable[[StepShape], float]) -> None:
        self.seconds = seconds
        self.quality = {"measured": 1.0, "interpolated": 0.0, "extrapolated": 0.0}


def simulate_priced(scenario: Scenario, seconds: Callable[[StepShape], float], pools: Pools | None = None) -> Result:
    """Run *scenario* at the price *seconds*, on KV *pools* with a drafter and without if given."""
    system: Any = replace(make_system(scenario), latency=lambda *_: Priced(seconds))
    if pools is None:
        return simulate(scenario, system=system)
    with patch("sdsim.pools.kv_blocks", lambda target, draft, *_: pools[draft is None]):
        return simulate(scenario, system=system)
