"""The engine as a queue: given arrivals, output lengths and a price of steps, when is each request served?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from scipy import stats

from sdsim.policy import FloatArray, IntArray
from sdsim.result import Result
from sdsim.scenario import scenario_from_mapping
from sdsim.step import StepShape
from sdsim.workload import Requests
from tests.priced import simulate_priced

ROOM = (10**9, 10**9)
"""KV blocks that never lack."""
BATCHES = 30
SURE = 0.999
"""Of each interval: twenty of them then hold together with a chance of 0.98."""


def constant(shape: StepShape) -> float:
    """Each step takes 1 s, whatever is in it: a request of n tokens alone takes n s."""
    return 1.0


def shared(shape: StepShape) -> float:
    """Each token of each request takes 1 s of one processor, which all share: processor sharing."""
    return float(shape.rows + shape.prefill_rows)


def prompts(shape: StepShape) -> float:
    """Each prompt token takes 1 ms, and nothing else does: a prompt and its one token are served in a single step."""
    return shape.prefill_tokens / 1000


def served(
    arrivals: FloatArray,
    outputs: IntArray,
    rows: int,
    price: Callable[[StepShape], float],
    prompt: IntArray | None = None,
    **changes: Any,
) -> Result:
    """Serve requests that arrive at *arrivals* (NaN: closed loop), *rows* at a time; of one prompt token by default."""
    mapping = {
        "model": "qwen3-30b-a3b",
        "gpus": "1 x h200",
        "replica": {"max_num_seqs": rows},
        "workload": {"kind": "poisson", "rate": 1, "limit": len(arrivals), "lengths": {"prompt": 1, "output": 1}},
    }
    ones = np.ones(len(arrivals), dtype=np.int64)
    given = Requests(
        np.arange(len(arrivals)), arrivals, ones if prompt is None else prompt, np.asarray(outputs, np.int64), 0 * ones
    )
    with patch("sdsim.simulation.requests", lambda *_: iter([given])):
        return simulate_priced(scenario_from_mapping(mapping | changes), price, ROOM)


def stays(result: Result) -> FloatArray:
    """Return the time that each request is there, s, in order of arrival."""
    table = result.requests
    return (table["finish_s"] - table["arrival_s"])[np.argsort(table["request_id"])]


def poisson(rate: float, count: int, seed: int) -> FloatArray:
    """Return the times of a Poisson process."""
    return np.cumsum(np.random.default_rng([seed, 1]).exponential(1 / rate, count))


def geometric(mean: float, count: int, seed: int) -> IntArray:
    """Return output lengths whose end is as likely after each token: the exponential law of whole numbers."""
    return np.random.default_rng([seed, 2]).geometric(1 / mean, count)


def batch_interval(values: npt.ArrayLike) -> tuple[float, float]:
    """Return the interval of the mean of correlated *values* in order, from the means of long stretches.

    The first tenth, in which the queue fills, is left out.
    """
    found = np.asarray(values, dtype=float)
    means = np.array([part.mean() for part in np.array_split(found[len(found) // 10 :], BATCHES)])
    half = stats.t.ppf((1 + SURE) / 2, BATCHES - 1) * means.std(ddof=1) / np.sqrt(BATCHES)
    return float(means.mean() - half), float(means.mean() + half)


def covers(values: npt.ArrayLike, expected: float, within: float = 0.2) -> None:
    """Assert that the interval of the mean of *values* holds *expected*, and is narrow enough to tell."""
    low, high = batch_interval(values)
    assert low <= expected <= high, f"{expected:.4g} is not in {low:.4g} to {high:.4g}"
    assert high - low <= 2 * within * expected, f"{low:.4g} to {high:.4g} says little"


def pollaczek_khinchine(rate: float, services: npt.ArrayLike, chances: Sequence[float] | FloatArray) -> float:
    """Return the mean wait of M/G/1: rate E[S^2] / (2 (1 - rate E[S]))."""
    times, weights = np.asarray(services, dtype=float), np.asarray(chances)
    return float(rate * (times**2 @ weights) / (2 * (1 - rate * (times @ weights))))
