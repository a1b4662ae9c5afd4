"""The whole against its parts: captured stacks of eight layers on the H200 against the sum of kernels and gaps."""

from __future__ import annotations

import numpy as np
import pytest

from sdsim.drafts import make_draft
from sdsim.gpus import load_gpu
from sdsim.latency.calibrated import CalibratedKernels
from sdsim.latency.calibration import load_shipped
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import load_engine
from sdsim.models import load_model
from sdsim.step import StepShape

CALIBRATION = load_shipped("h200")
MODELS = ("qwen3-30b-a3b", "qwen2-57b-a14b", "mixtral-8x7b", "qwen2.5-32b")


def layers_us(name, batch, q_len, context, layers=8):
    """Return the predicted microseconds of *layers* layers without head, drafter and host."""
    from sdsim.experts import make_routing

    assert CALIBRATION is not None
    model = load_model(name)
    latency = ComposedLatency(model, None, CalibratedKernels(CALIBRATION, load_gpu("h200")), load_engine("ideal"))
    tokens = batch * q_len
    shape = StepShape(
        rows=batch, verify_tokens=tokens, context_tokens=batch * (context - q_len),
        attention_pairs=tokens * (context - q_len),
        distinct_experts=make_routing(model.experts, model.experts_per_token).distinct_uniform_rows(batch, tokens),
    )  # fmt: skip
    parts = latency.cost(shape).components
    whole = sum(parts.values()) - parts["lm_head"] - parts["sampling"]
    return 1e6 * whole * layers / model.layers


def measured():
    assert CALIBRATION is not None
    for row in CALIBRATION.of("layers"):
        name = row["key"].split("/")[1]
        yield name, row["batch"], row["q_len"], row["context"], row["us_p50"]


def errors():
    return {(n, b, q): layers_us(n, b, q, c) / us - 1 for n, b, q, c, us in measured()}


def test_stacks_are_within_three_percent_of_the_sum_of_kernels_and_gaps():
    found = errors()
    assert len(found) == 20
    assert {name for name, *_ in found} == set(MODELS)
    assert np.median(np.abs(list(found.values()))) < 0.03
    for name in MODELS:
        mine = [e for (n, *_), e in found.items() if n == name]
        assert abs(np.median(mine)) < 0.03, (name, mine)


def test_a_captured_draft_pass_is_the_sum_of_its_kernels():
    """The drafter's pass: 24 small layers, head included, where fixed costs are nearly everything."""
    assert CALIBRATION is not None
    target = load_model("qwen2-57b-a14b")
    draft = make_draft("model", target, "qwen2-0.5b")
    latency = ComposedLatency(target, draft, CalibratedKernels(CALIBRATION, load_gpu("h200")), load_engine("ideal"))
    ratios = []
    for row in CALIBRATION.of("draft"):
        if row["key"].startswith("draft/qwen2-0.5b/") and row["key"].endswith("q1/c1024/k1"):
            batch, stored = row["batch"], row["batch"] * 1023
            shape = StepShape(
                rows=batch, verify_tokens=batch, context_tokens=stored, attention_pairs=stored, draft_length=1,
                draft_rows=batch, drafter="on",
            )  # fmt: skip
            ratios.append(1e6 * latency.cost(shape).draft_s / row["us_p50"])
    assert len(ratios) == 9
    assert np.median(ratios) == pytest.approx(1, abs=0.10)
