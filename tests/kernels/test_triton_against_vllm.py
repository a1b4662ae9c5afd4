"""The comparison with an engine's kernel: both sides on one routing, the table, and what it comes to."""

import json
import sys
import types
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest

from kernels import against_vllm, ceilings, measure, measure_vllm, moe, routing, timing
from kernels.shapes import SHAPES

TINY = replace(
    SHAPES["qwen3-30b-a3b"], name="tiny", hidden=64, experts=8, topk=2, expert_intermediate=32, parts=("moe",)
)  # fmt: skip


@pytest.fixture
def engine(monkeypatch):
    """An engine whose kernels are ours, and a clock by which its layer takes 25% longer."""
    fused = types.ModuleType("vllm.model_executor.layers.fused_moe")
    fused.fused_topk = lambda x, logits, topk, renormalise: routing.top_k(logits, topk, renormalise)
    fused.fused_experts = moe.experts_mlp
    vllm = types.ModuleType("vllm")
    vllm.__version__ = "9.9"
    parents = {name: types.ModuleType(name) for name in ("vllm.model_executor", "vllm.model_executor.layers")}
    for name, module in {"vllm": vllm, **parents, fused.__name__: fused}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(timing, "L2_BYTES", 2000)

    def measured(case, replays=10):
        case.calls[0]()
        us = (20 + case.bytes / 4e3) * (1.0 if case.backend == "triton" else 1.25)
        return case.row(timing.Timing(us, us, us, 1, 1, 3))

    monkeypatch.setattr(measure.Case, "measure", measured)
    for module in (measure, measure_vllm):
        monkeypatch.setattr(module, "moe_case", partial(module.moe_case, device="cpu"))
    monkeypatch.setattr(measure_vllm, "configured", nullcontext)
    monkeypatch.setattr(ceilings, "measure", lambda: {"read_tb_s": 0.004})
    monkeypatch.setitem(SHAPES, "tiny", TINY)


def test_the_command_prints_the_table_and_keeps_the_points(engine, monkeypatch, tmp_path, capsys):
    out = tmp_path / "points.jsonl"
    words = ["against_vllm", "tiny", "--tokens", "1,4,16", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    against_vllm.main()
    text = capsys.readouterr().out
    assert "geometric mean of ours over vllm-9.9: 0.800" in text
    assert "worst up to 256 tokens 0.800" in text
    assert "fixed cost 20.0 us (theirs 25.0)" in text
    head, *points = [json.loads(line) for line in out.read_text().splitlines()]
    assert head == {"backend": "vllm-9.9", "read_tb_s": 0.004}
    assert [(p["tokens"], p["distinct"]) for p in points] == [(1, 2), (4, 5), (16, 8)]
    assert all(len(p["ours_all_us"]) == len(p["theirs_all_us"]) == 3 for p in points)
    with pytest.raises(SystemExit):
        against_vllm.main()
    assert "exists; name another file" in capsys.readouterr().err


def test_summary_by_hand():
    rows = [
        {"model": "m", "tokens": t, "distinct": d, "bytes": b, "ours_us": o, "theirs_us": h, "ratio": o / h,
         "backend": "vllm-x"}
        for t, d, b, o, h in ((1, 2, 4e6, 12.0, 10.0), (512, 8, 16e6, 8.0, 16.0))
    ]  # fmt: skip
    text = list(against_vllm.lines(rows, 4.0))
    assert against_vllm.geometric_mean(rows) == pytest.approx((1.2 * 0.5) ** 0.5)
    assert text[1].endswith("1.200     8.3%")
    assert "mean 0.775, worst up to 256 tokens 1.200 at 1, at best 50.0% of the read rate" in text[-1]
