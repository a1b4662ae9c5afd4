"""What an H200 was seen to do beside the shipped model: steps with prompts, padded batches, a minute of bursts."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from sdsim.hardware.mixed import Mix, Prediction
from sdsim.hardware.padding import expected
from sdsim.models import load_model
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import simulate

RECORDS = Path(__file__).parent / "records/gpu"


def record(name):
    """Return a record's head and rows."""
    head, *rows = [json.loads(line) for line in (RECORDS / f"{name}.jsonl").read_text().splitlines()]
    return head, rows


@pytest.fixture(scope="module")
def mixed():
    head, rows = record("mixed-qwen2-57b-a14b")
    model = replace(load_model(head["model"]), layers=head["layers"])
    predicted = Prediction(model, head["draft"], head["device"], None)
    found = {Mix(r["rows"], r["draft_length"], r["chunk"]): (r["target_s"], r["context"]) for r in rows}
    return {
        mix: (seconds, predicted.line(mix, context)["predicted_target_s"]) for mix, (seconds, context) in found.items()
    }


def test_steps_that_decode_and_prefill_take_what_is_predicted(mixed):
    errors = np.abs([predicted / seconds - 1 for seconds, predicted in mixed.values()])
    assert len(errors) == 96
    assert np.median(errors) < 0.04
    assert np.percentile(errors, 90) < 0.10


@pytest.mark.parametrize("which", [0, 1], ids=["measured", "predicted"])
def test_a_chunk_spares_few_rows_their_experts_and_many_rows_nothing(mixed, which):
    """What each draft token adds, s: for up to 8 rows a quarter at most, beside 128 prompt tokens, of that alone."""

    def added(rows, length, chunk):
        return (mixed[rows, length, chunk][which] - mixed[rows, 0, chunk][which]) / (rows * length)

    for rows in (1, 8):
        for length in (1, 3, 7):
            assert added(rows, length, 128) < 0.25 * added(rows, length, 0)
    assert added(128, 7, 1024) > 0.8 * added(128, 7, 0)
    assert added(32, 7, 1024) > 1.5 * added(32, 7, 0)


def test_padding_loads_the_experts_that_its_contents_are_routed_to():
    head, rows = record("padding-qwen3-30b-a3b")
    model = load_model(head["model"])
    assert len(rows) == 30
    for r in rows:
        law = expected(r["filling"], r["tokens"], r["run"] - r["tokens"], model.experts, model.experts_per_token)
        assert r["distinct_experts"] == pytest.approx(law, rel=0.03)
    times = {(r["tokens"], r["filling"]): r["step_s"] for r in rows}
    assert times[9, "stale"] > 1.25 * times[9, "none"]
    assert times[9, "same"] < 1.06 * times[9, "none"]
    assert times[65, "stale"] < 1.02 * times[65, "none"]


def test_policies_rank_on_the_gpu_as_they_do_in_simulation():
    """Each pair that either says is 3% apart, by throughput and by requests within the SLOs."""
    head, rows = record("slice-qwen2-57b-a14b")
    scenario = scenario_from_mapping(head["scenario"])
    runs = [simulate(scenario, policy, engine="ideal").summary for policy in scenario.policies]
    assert [run["policy"] for run in runs] == [row["policy"] for row in rows]
    for figure in ("output_tokens_per_s", "goodput_rps"):
        apart = 0
        for (a, b), (c, d) in zip(combinations(runs, 2), combinations(rows, 2), strict=True):
            simulated, measured = (np.log(x[figure] / y[figure]) for x, y in ((a, b), (c, d)))
            if max(abs(simulated), abs(measured)) > np.log(1.03):
                apart += 1
                assert simulated * measured > 0
        assert apart >= 4
    for run, row in zip(runs, rows, strict=True):
        assert run["output_tokens_per_s"] == pytest.approx(row["output_tokens_per_s"], rel=0.01)
        assert run["tpot_s"]["p50"] == pytest.approx(row["tpot_s"]["p50"], rel=0.10)
        assert run["tpot_s"]["p90"] == pytest.approx(row["tpot_s"]["p90"], rel=0.10)
        assert run["ttft_s"]["p50"] == pytest.approx(row["ttft_s"]["p50"], rel=0.20)
