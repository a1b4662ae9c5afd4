"""The tuner, with a clock that names the winners: what it tries, keeps and writes."""

import json
import sys

import pytest
import torch

from kernels import configs, tune
from kernels.shapes import Shape

TINY = {
    "bf16": Shape("tiny", 64, 1, 4, 2, 32, 97, experts=4, topk=2, expert_intermediate=32),
    "fp8": Shape("tiny-fp8", 128, 1, 4, 2, 32, 97, experts=4, topk=2, expert_intermediate=128, expert_format="fp8"),
    "mxfp4": Shape("tiny-fp4", 64, 1, 4, 2, 32, 97, experts=4, topk=2, expert_intermediate=64, expert_format="mxfp4"),
}


@pytest.fixture
def clock(monkeypatch):
    """Time by the tile: few stages win. Whole layers really run, candidates of one product where they are small."""

    def quick(call, cold_bytes, config):
        if isinstance(config, configs.Moe) or config.block_n == 32:
            call(0, config)
        gemms = (config.gate_up, config.down) if isinstance(config, configs.Moe) else (config,)
        return sum(10.0 * g.num_stages + g.block_n / 1000 for g in gemms)

    monkeypatch.setattr(tune, "quick", quick)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a test")
    for shape in TINY.values():
        monkeypatch.setitem(tune.SHAPES, shape.name, shape)


@pytest.mark.parametrize("weights", TINY)
def test_the_fastest_candidates_win(clock, weights):
    bench = tune.Bench(TINY[weights], 3, "cpu")
    config, us, ruled = bench.best()
    fewest = min(c.num_stages for c in configs.candidates(configs.GATE_UP, weights, 16, False))
    assert config.gate_up.num_stages == fewest
    assert us <= ruled
    assert bench.key.weights == weights


def test_the_table_is_written_entry_by_entry_and_replaced_on_demand(clock, monkeypatch, tmp_path):
    out = tmp_path / "tuned.json"
    bench = tune.Bench
    monkeypatch.setattr(tune, "Bench", lambda shape, tokens: bench(shape, tokens, "cpu"))
    monkeypatch.setattr(tune, "TOKENS", (1, 3))

    def run(*words):
        configs.table.cache_clear()
        monkeypatch.setattr(sys, "argv", ["tune", "--out", str(out), *words])
        tune.main()
        return json.loads(out.read_text())["moe"]

    first = run("tiny", "tiny-fp8")
    assert [(r["tokens"], r["weights"]) for r in first] == [(1, "bf16"), (1, "fp8"), (3, "bf16"), (3, "fp8")]
    assert run("tiny", "tiny-fp8") == first
    assert len(run("tiny", "--again")) == 4
    out.unlink()
    configs.table.cache_clear()
    monkeypatch.setattr(sys, "argv", ["tune", "--out", str(out), "--seconds", "-1", "tiny"])
    tune.main()
    assert not out.exists()
