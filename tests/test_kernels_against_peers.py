"""Our measured kernels beside other people's of the same shapes on the same GPU (needs ../shared/data/h200_peers)."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from sdsim.latency.calibration import load_shipped

PEERS = Path(__file__).resolve().parent.parent.parent / "shared/data/h200_peers"
MOE = {
    "mixtral-8x7b": (8, 2, 4096, 14336),
    "qwen3-30b-a3b": (128, 8, 2048, 768),
    "qwen3-235b-a22b": (128, 8, 4096, 1536),
}
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def ours(shape):
    """Return microseconds by tokens of the balanced rows, min(E, T k) experts active."""
    calibration = load_shipped("h200")
    assert calibration is not None
    keys = ("experts", "topk", "hidden", "intermediate")
    full = {r["tokens"]: r for r in calibration.of("moe") if tuple(r["shape"][k] for k in keys) == shape}
    rows = [r for r in calibration.of("moe") if tuple(r["shape"][k] for k in keys) == shape]
    balanced = {r["tokens"]: r["us_p50"] for r in rows if r["distinct"] == min(shape[0], r["tokens"] * shape[1])}
    assert set(balanced) <= set(full)
    return balanced


def theirs(shape):
    """Return microseconds by tokens of vLLM 0.24's balanced rows."""
    found = {}
    for row in csv.DictReader((PEERS / "h200_moe_bf16_aiconfigurator.csv").read_text().splitlines()):
        key = tuple(int(row[k]) for k in ("num_experts", "topk", "hidden_size", "inter_size"))
        if (
            key == shape
            and row["framework"] == "VLLM"
            and row["version"] == "0.24.0"
            and row["distribution"] == "balanced"
        ):
            found[int(row["num_tokens"])] = float(row["latency"]) * 1e3
    return found


def ratios(model):
    us, peer = ours(MOE[model]), theirs(MOE[model])
    return {t: us[t] / peer[t] for t in TOKENS if t in us and t in peer}


@pytest.mark.skipif(not PEERS.exists(), reason="needs ../shared/data/h200_peers")
@pytest.mark.parametrize("model", sorted(MOE))
def test_the_moe_layer_takes_at_most_a_tenth_longer_than_vllms(model):
    found = ratios(model)
    assert {1, 8, 64, 256} <= set(found)
    slow = {t: round(r, 2) for t, r in found.items() if r > 1.10 and t <= 512}
    assert not slow
