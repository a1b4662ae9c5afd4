"""The answer in words: gains said so that they are not misread, and the acceptance that the requests have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdsim.acceptance import make_acceptance
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate
from sdsim.verdict import Comparison, compare, verdict

MIXED = {
    "model": "qwen3-30b-a3b",
    "draft": {"kind": "model", "model": "qwen2-0.5b"},
    "gpus": "h200",
    "workload": {
        "kind": "poisson",
        "rate": 50,
        "limit": 60,
        "lengths": {"prompt": 100, "output": 20},
        "classes": {"chat": {"share": 0.9}, "code": {"share": 0.1}},
    },
    "acceptance": {"kind": "mixture", "classes": {"chat": {"rate": 0.5}, "code": {"rate": 0.9}}},
    "policy": {"kind": "fixed", "length": 3},
}


def said(ours: list[float], theirs: list[float]) -> str:
    """Return the first sentence about policies of these throughputs, one a seed; nothing drafts."""

    def runs(values: list[float]) -> list[Any]:
        return [SimpleNamespace(summary={"output_tokens_per_s": value}) for value in values]

    scenario: Any = SimpleNamespace(slo=None, draft=None, acceptance=None)
    return verdict(Comparison(scenario, {"a": runs(ours), "b": runs(theirs)}))[0]


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ([110, 121, 132], [100, 110, 120], "+10.0% over b (95% interval +10.0% to +10.0%, 3 seeds)"),
        ([3000, 3100, 3200], [100, 100, 100], "31 times that of b (95% interval 28.5 to 33.5, 3 seeds)"),
        ([100.01, 100.02], [100, 100], "less than 0.1% over b (2 seeds), which makes no difference"),
        ([100.9, 101.9], [101, 101], "(95% interval -5.9% to +6.7%, 2 seeds, so no evidence of a difference)"),
        ([2000], [100], "20 times that of b (one seed, so no interval: use --seeds 5)"),
    ],
)
def test_gains_are_said_as_they_matter(ours: list[float], theirs: list[float], words: str) -> None:
    assert words in said(ours, theirs)


def test_the_mean_acceptance_is_that_of_the_requests() -> None:
    """Nine chats in ten: the mean is near theirs, not half way to the code's."""
    scenario = scenario_from_mapping(MIXED)
    result = simulate(scenario)
    law = make_acceptance(scenario.acceptance, scenario.seed, result.class_names)
    ids = np.arange(60)
    mean = law.request_rates(ids, result.requests["request_class"].astype(np.int64)).mean()
    assert 0.5 < mean < 0.62
    assert f"(the scenario's mean is {mean:.2f})" in verdict(compare(scenario, [result]))[-1]
