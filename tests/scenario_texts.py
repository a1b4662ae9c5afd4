"""A good scenario as text, and what a spoilt one is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdsim.errors import ScenarioError
from sdsim.scenario import Scenario, load_scenario

GOOD = """model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
workload: {kind: bursty, rate: 12/s, peak: 24/s, period: 5min, lengths: azure-conv}
acceptance: {kind: iid, rate: 0.8}
policy: {kind: fixed, length: 3}
slo: {ttft: 2s, tpot: 50ms}
until: 60s
seed: 7
"""
WORKLOAD = GOOD.splitlines()[3].removeprefix("workload: ")


def without(key: str) -> str:
    return "".join(line for line in GOOD.splitlines(keepends=True) if not line.startswith(f"{key}:"))


def load(folder: Path, text: str | bytes, *overrides: str) -> Scenario:
    file = folder / "x.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_scenario(file, overrides)


def mistakes(folder: Path, text: str | bytes, *overrides: str) -> list[str]:
    """Return the lines of the error, without the folder."""
    with pytest.raises(ScenarioError) as error:
        load(folder, text, *overrides)
    assert str(error.value).splitlines() == list(error.value.problems)
    return [line.replace(f"{folder}/", "") for line in error.value.problems]
