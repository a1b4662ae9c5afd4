"""Warnings about scenarios that are legal and probably not meant."""

from __future__ import annotations

import pytest

from sdsim.checks import doubtful
from sdsim.scenario import scenario_from_mapping

BURSTY = {"kind": "bursty", "rate": "12/s", "peak": "24/s", "period": "5min", "lengths": "azure-conv"}
GOOD = {
    "model": "qwen3-30b-a3b",
    "draft": "eagle3",
    "gpus": "h200",
    "workload": BURSTY,
    "acceptance": {"kind": "iid", "rate": 0.8},
    "policy": {"kind": "fixed", "length": 3},
    "slo": {"ttft": "2s", "tpot": "50ms"},
    "until": "20min",
}


def test_nothing_is_said_about_a_good_scenario():
    assert doubtful(scenario_from_mapping(GOOD)) == []


@pytest.mark.parametrize(
    ("change", "start"),
    [
        ({"replica": {"max_num_batched_tokens": 1023}}, "replica.max_num_batched_tokens: 1023 is less than the 1024"),
        ({"workload": {**BURSTY, "peak": "5/s"}}, "workload.peak: 5/s is below the rate of 12/s"),
        ({"until": "4min"}, "workload.period: the first peak comes after 240 s"),
        ({"workload": {**BURSTY, "limit": 100}}, "workload.period: the first peak comes after 240 s"),
        (
            {"workload": {**BURSTY, "kind": "diurnal"}, "until": "1min"},
            "workload.period: the first peak comes after 150 s",
        ),
        ({"slo": {}}, "slo: no target"),
        ({"slo": {"tpot": 50}}, "slo.tpot: 50 s is met by almost anything; write 50ms"),
        ({"classes": {"default": {"slo": {"ttft": 500}}}}, "classes.default.slo.ttft: 500 s is met by almost"),
        ({"slo": {"e2e": "1h"}}, "until: 1200 s is shorter than the SLO"),
        ({"slo": {"ttft": "2s", "e2e": "1s"}}, "slo.e2e: 1 s is below ttft"),
        ({"policy": ["off", "goodput"]}, "seeds: one seed gives no interval for the differences between 2 policies"),
        ({"warmup": "20min"}, "warmup: 1200 s leave nothing"),
        ({"policy": "off"}, "draft: no policy uses it"),
    ],
)
def test_each_doubt_is_one_line_with_a_remedy(change, start):
    (warning,) = doubtful(scenario_from_mapping({**GOOD, **change}))
    assert warning.startswith(start)
    assert "; " in warning
    assert len(warning.splitlines()) == 1


def test_mmpp_has_no_first_peak():
    mmpp = {"kind": "mmpp", "rate": 1, "peak": 2, "mean_low": "1h", "mean_high": "1h", "lengths": "azure-conv"}
    assert doubtful(scenario_from_mapping({**GOOD, "workload": mmpp})) == []
