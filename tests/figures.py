"""What a fixed set of runs comes to, for comparing environments: `python -m tests.figures` prints it as JSON.

`tests/records/figures.json` holds it. Prices are made up here, so it moves only when a rule, a coin or a stream does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256

import numpy as np

from sdsim.policy import FloatArray
from sdsim.result import Result
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate
from sdsim.step import StepShape
from tests.awkward_policies import CUSTOM
from tests.priced import simulate_priced
from tests.random_scenarios import random_case

POLICIES = (*CUSTOM, "cascade", "thompson", "exp3", "sglang_adaptive", "tetris", {"kind": "fixed", "length": 3}, "off")
"""Policies that ask for no prices."""


def price(shape: StepShape) -> float:
    """Return the seconds of a step: some for each of its parts."""
    work = 1e-5 * (shape.verify_tokens + shape.prefill_tokens) + 3e-9 * (shape.attention_pairs + shape.prefill_pairs)
    return 1e-3 + work + 1e-4 * shape.draft_length + 7e-6 * shape.distinct_experts


def run(number: int) -> Result:
    """Return the run called *number*, at the made-up price."""
    mapping, pools = random_case(number)
    mapping |= {"policy": POLICIES[number % len(POLICIES)], "engine": "ideal", "calibration": "roofline"}
    return simulate_priced(scenario_from_mapping(mapping), price, pools)


def columns(result: Result) -> Iterator[tuple[str, FloatArray]]:
    """Yield all columns of a run."""
    for part, found in (("request", result.requests), ("step", result.steps)):
        for name, column in found.items():
            yield f"{part} {name}", column


def figures() -> dict[str, object]:
    """Return a digest of all bytes, of a few runs at a GPU's prices too, and the sums of the others' columns.

    Later rows of a column count more.
    """
    digest, sums = sha256(), {}
    for number in range(len(POLICIES)):
        for name, column in columns(run(number)):
            digest.update(column.tobytes())
            weights = np.arange(1, len(column) + 1) / len(column)
            sums[f"{number} {name}"] = float(np.dot(np.nan_to_num(column), weights))
    for number in range(5):
        for _, column in columns(simulate(scenario_from_mapping(random_case(number)[0]))):
            digest.update(column.tobytes())
    return {"digest": digest.hexdigest(), "sums": sums}


if __name__ == "__main__":
    print(json.dumps(figures(), indent=0))
