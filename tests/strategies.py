"""Hypothesis strategies: scenarios small enough to run in a blink, mean enough to hit every rule."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

DRAFTS = st.sampled_from(
    [
        {"kind": "model", "model": "qwen2-0.5b"},
        {"kind": "eagle3"},
        {"kind": "mtp"},
        {"kind": "ngram", "available": 0.4},
    ]
)
POLICIES = st.sampled_from(
    [
        "off",
        {"kind": "fixed", "length": 0},
        {"kind": "fixed", "length": 1},
        {"kind": "fixed", "length": 5},
        {"kind": "batch_table", "table": [[1, 2, 4], [3, 6, 1], [7, 7, 0]]},
        {"kind": "disable_by_batch", "length": 3, "threshold": 3},
        {"kind": "goodput"},
        {"kind": "moesd"},
    ]
)
ACCEPTANCE = st.sampled_from(
    [
        {"kind": "iid", "rate": 0.8},
        {"kind": "iid", "rate": 0.0},
        {"kind": "iid", "rate": 1.0},
        {"kind": "positions", "rates": [0.8, 0.6, 0.5, 0.3, 0.2]},
        {"kind": "profile", "name": "glm-5.2-mtp"},
        {"kind": "mixture", "classes": {"a": {"rate": 0.9}, "b": {"rate": 0.4, "spread": 0.1, "weight": 2}}},
    ]
)
ROUTING = st.sampled_from(
    ["uniform", {"kind": "correlated", "within": 0.7, "between": 0.9}, {"kind": "skewed", "alpha": 1.2}]
)


@st.composite
def workloads(draw: st.DrawFn) -> dict[str, Any]:
    """Return a workload of a few dozen requests."""
    limit = draw(st.integers(1, 40))
    lengths = {"prompt": draw(st.integers(1, 3000)), "output": draw(st.integers(1, 120))}
    if draw(st.booleans()):
        return {"kind": "closed", "concurrency": draw(st.integers(1, 12)), "limit": limit, "lengths": lengths}
    rate = draw(st.sampled_from([1, 20, 400]))
    return {"kind": "poisson", "rate": rate, "limit": limit, "lengths": draw(st.sampled_from([lengths, "azure-conv"]))}


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Return a scenario mapping; few rows, a small budget and little memory make eviction and chunking common."""
    seqs = draw(st.integers(1, 12))
    return {
        "model": draw(st.sampled_from(["qwen3-30b-a3b", "deepseek-v2-lite", "qwen2-57b-a14b"])),
        "draft": draw(DRAFTS),
        "gpus": "1 x h200",
        "replicas": draw(st.integers(1, 3)),
        "replica": {
            "max_num_seqs": seqs,
            "max_num_batched_tokens": draw(st.integers(max(8, seqs), 600)),
        },
        "router": draw(st.sampled_from(["least_loaded", "round_robin", "shortest_queue"])),
        "workload": draw(workloads()),
        "acceptance": draw(ACCEPTANCE),
        "routing": draw(ROUTING),
        "policy": draw(POLICIES),
        "slo": {"ttft": 1.0, "tpot": 0.05},
        "until": draw(st.sampled_from([None, 0.7])),
        "feedback_lag": draw(st.integers(0, 3)),
        "seed": draw(st.integers(0, 1000)),
    }
