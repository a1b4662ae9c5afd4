"""Scenarios drawn by number: small enough for a token-by-token simulator, mean enough to meet every rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.awkward_policies import CUSTOM
from tests.naive import Pools

Drawn = dict[str, Any]
DRAFTS = (
    {"kind": "model", "model": "qwen2-0.5b"},
    {"kind": "eagle3"},
    {"kind": "mtp"},
    {"kind": "ngram"},
    {"kind": "ngram", "available": 0.5},
)
ACCEPTANCE = (
    {"kind": "iid", "rate": 0.8},
    {"kind": "iid", "rate": 0.6, "auc": 0.75},
    {"kind": "iid", "rate": 1.0},
    {"kind": "positions", "rates": [0.9, 0.7, 0.6, 0.5, 0.4, 0.4, 0.3, 0.2]},
    {"kind": "positions", "rates": [0.8, 0.6, 0.5, 0.3, 0.2, 0.1, 0.1, 0.1], "auc": 0.7},
    {"kind": "profile", "name": "minimax-m3-eagle3-no-thinking"},
    {"kind": "drift", "rates": [0.9, 0.2, 0.6], "every": 3},
    {"kind": "mixture", "classes": {"a": {"rate": 0.9}, "b": {"rate": 0.4, "spread": 0.1, "weight": 2}}},
    {"kind": "mixture", "classes": {"a": {"rate": 0.8, "spread": 0.1}, "b": {"rate": 0.3}}, "auc": 0.7},
)
POLICIES = (
    "off", "goodput", "position_goodput", "moesd", "throughput_aware", "sglang_adaptive", "cascade",
    "cascade_per_request", "nightjar", "magicdec", "priority_split", "echo", "ucb", "exp3", "thompson", "dspark",
    "tetris", "evict", "marginal_experts", "adaserve", "adaspec", "slos_serve", "dsde", "confidence_stop",
    {"kind": "fixed", "length": 0}, {"kind": "fixed", "length": 1}, {"kind": "fixed", "length": 5},
    {"kind": "batch_table", "table": [[1, 2, 4], [3, 6, 1], [7, 7, 0]]},
    {"kind": "disable_by_batch", "length": 3, "threshold": 3},
    {"kind": "disable_by_queue", "length": 2, "threshold": 2},
    {"kind": "safe", "inner": "goodput"}, {"kind": "hysteresis", "inner": "goodput"},
    {"kind": "staleness", "inner": {"kind": "cascade_per_request"}, "steps": 2},
)  # fmt: skip
ROUTING = ("uniform", {"kind": "correlated", "within": 0.7, "between": 0.9}, {"kind": "skewed", "alpha": 1.2})
SERVED = (
    ("qwen3-30b-a3b", 1), ("qwen2-57b-a14b", 1), ("deepseek-v2-lite", 1), ("qwen2.5-32b", 1), ("qwen3-30b-a3b", 2),
    ("deepseek-v2-lite", 4), ("qwen3-235b-a22b", 8),
)  # fmt: skip
"""Models, MLA and dense ones among them, and the GPUs of a replica."""
ROUTERS = ("least_loaded", "round_robin", "shortest_queue", "power_of_two", "prefix_aware")


class Draw:
    """Draws from named sets."""

    def __init__(self, number: int) -> None:
        self._random = np.random.default_rng(number)

    def one(self, of: Sequence[Any]) -> Any:
        """Return one of *of*."""
        return of[self._random.integers(len(of))]

    def between(self, low: int, high: int) -> int:
        """Return a whole number, *high* included; small ones more often."""
        return int(low * ((high + 1) / low) ** self._random.random())

    def chance(self, share: float) -> bool:
        """Return True with a chance of *share*."""
        return bool(self._random.random() < share)


def random_case(number: int) -> tuple[Drawn, Pools]:
    """Return the scenario called *number*, and KV pools that hold few of its requests at a time."""
    draw = Draw(number)
    prompt, output = draw.between(1, 300), draw.between(2, 70)
    seqs = draw.one((1, 2, 4, 6, 8, 12, 12))
    size = draw.one((1, 7, 16))
    mapping = {
        "draft": draw.one(DRAFTS),
        "replicas": draw.between(1, 3),
        "router": draw.one(ROUTERS),
        "engine": draw.one(("ideal", "ideal", "vllm-0.22.1")),
        "workload": _workload(draw, prompt, output),
        "acceptance": draw.one(ACCEPTANCE),
        "routing": draw.one(ROUTING),
        "policy": draw.one(CUSTOM) if draw.chance(0.4) else draw.one(POLICIES),
        "slo": {"ttft": 1.0, "tpot": 0.05},
        "until": draw.one((None, None, None, 0.1)),
        "feedback_lag": draw.between(1, 4) - 1,
        "block_size": size,
        "seed": number,
    } | _served(draw, max(17, seqs))
    mapping["replica"] |= {"max_num_seqs": seqs}
    if mapping["engine"] != "ideal" and mapping["draft"]["kind"] == "model":  # whose own tokens the engine keeps
        mapping["replica"]["max_num_batched_tokens"] = max(17 + seqs, mapping["replica"]["max_num_batched_tokens"])
    least = -(-(prompt + output + 17) // size)
    blocks = draw.between(least, 3 * least)
    return mapping, (blocks, blocks + draw.between(1, least) - 1)


def _served(draw: Draw, least: int) -> Drawn:
    model, gpus = draw.one(SERVED)
    tensor = draw.one([t for t in (1, 2, 4, 8) if t <= gpus and (gpus < 8 or t > 2)])
    spread = gpus if tensor < gpus or draw.chance(0.5) else 1
    replica = {
        "tensor_parallel": tensor,
        "expert_parallel": spread,
        "max_num_batched_tokens": draw.between(least, least + 6 if draw.chance(0.2) else 500),
    }
    return {"model": model, "gpus": f"{gpus} x h200", "replica": replica}


def _workload(draw: Draw, prompt: int, output: int) -> Drawn:
    lengths = {"prompt": prompt, "output": output}
    workload: Drawn = {"limit": draw.between(5, 40), "lengths": lengths}
    if draw.chance(0.3):
        workload |= {"kind": "closed", "concurrency": draw.between(1, 16), "think": draw.one((0, 0.01))}
    else:
        workload |= {"kind": "poisson", "rate": draw.one((50, 300, 2000))}
    if draw.chance(0.5):
        other = {"prompt": draw.between(1, prompt), "output": draw.between(1, output)}
        workload["classes"] = {"a": {"share": 1}, "b": {"share": 2, "lengths": other}}
    return workload
