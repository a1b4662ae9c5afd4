"""Layers, drafts and the measurement cases, composed of the kernels on sizes that the interpreter can run."""

from dataclasses import replace

import pytest
import torch

from kernels import dense, measure, measure_models, numerics, rope, suite, timing
from kernels.draft import Decoder, EagleHead
from kernels.layer import Cache, Rows
from kernels.shapes import SHAPES, Shape

DENSE_PARTS = ("dense", "attention", "norms", "layers")
DENSE = Shape("tiny", 64, 2, 4, 2, 32, 97, intermediate=96, qkv_bias=True, parts=DENSE_PARTS)
SPARSE = Shape(
    "tiny-moe", 64, 1, 4, 2, 32, 97, experts=8, topk=2, expert_intermediate=48, shared_intermediate=32,
    shared_gate=True,
    qk_norm=True, renormalise=False,
)  # fmt: skip

FP4 = replace(SPARSE, expert_format="mxfp4", hidden=64, expert_intermediate=64)
LATENT = replace(SPARSE, latent_rank=32, rope_dim=16, value_dim=32)


@pytest.mark.parametrize("tokens", [1, 7])
def test_norm_silu_and_rope_against_float64(tokens):
    assert numerics.check_dense(replace(SPARSE, hidden=80), tokens, "cpu") < 1e-2


def two_rows(cache, q_len, length):
    """Two sequences of *length* tokens, q_len of them new."""
    return [Rows(q_len, cache.block_table, torch.full((2,), length, dtype=torch.int32), cache.length)]


@pytest.mark.parametrize("shape", [DENSE, SPARSE], ids=lambda s: s.name)
def test_proposed_tokens_are_those_of_a_plain_decoder(shape):
    decoder, cache = Decoder(shape, 6, 40, torch.float32, "cpu"), Cache(2, 40, 32, "cpu")
    tokens = torch.randint(0, 97, (2, 9), dtype=torch.int32)
    decoder.forward(tokens[:, :6], two_rows(cache, 6, 6))
    drafts = decoder.propose(tokens[:, 6:], two_rows(cache, 3, 9), 3)
    for b in range(2):
        sequence = tokens[b].tolist()
        for step in range(3):
            sequence.append(int(decoder.reference(torch.tensor(sequence)).argmax()))
            assert int(drafts[b, step]) == sequence[-1]


def test_eagle_head_continues_hidden_states():
    cache = Cache(2, 40, 32, "cpu")
    head = EagleHead(replace(DENSE, layers=1), cache.pages, cache.length, torch.float32, "cpu")
    tokens, hidden = torch.randint(0, 97, (2, 3), dtype=torch.int32), torch.randn(2, 3, 64)
    drafts = head.propose(tokens, two_rows(cache, 3, 3), 2, hidden)
    assert drafts.shape == (2, 2)
    for b in range(2):
        x = head.layers[0].reference(torch.cat([head.embed[tokens[b].long()], hidden[b]], dim=1) @ head.fuse.T)
        logits = dense.rms_norm_reference(x[-1], head.norm) @ head.lm_head.double().T
        assert int(logits.argmax()) == int(drafts[b, 0])
    with pytest.raises(ValueError, match="hidden states"):
        head.propose(tokens, two_rows(cache, 3, 3), 1)


CASES = {
    "moe": lambda: measure.moe_case(SPARSE, 5, "uniform", device="cpu"),
    "moe-fp8": lambda: measure.moe_case(replace(SPARSE, expert_format="fp8"), 5, "uniform", device="cpu"),
    "moe-mxfp4": lambda: measure.moe_case(FP4, 5, "uniform", device="cpu"),
    "gemm": lambda: measure.gemm_case(3, 96, 64, device="cpu"),
    "gemm-fp8": lambda: measure.gemm_case(3, 96, 64, "fp8", device="cpu"),
    "latent": lambda: measure.latent_case(LATENT, 2, 40, 3, "cpu"),
    "latent-prefill": lambda: measure.prefill_case(LATENT, 8, 16, "cpu"),
    "attention": lambda: measure.attention_case(SPARSE, 2, 40, 3, "cpu"),
    "prefill": lambda: measure.prefill_case(SPARSE, 8, 16, "cpu"),
    "greedy": lambda: measure.rejection_case(97, 2, 3, "greedy", "cpu"),
    "sample": lambda: measure.rejection_case(97, 2, 3, "sample", "cpu"),
    "norm": lambda: measure.norm_case(3, 64, "cpu"),
    "silu": lambda: measure.silu_case(3, 64, "cpu"),
    "rope": lambda: measure_models.rope_case(SPARSE, 3, "cpu"),
    "draft": lambda: measure_models.draft_case(DENSE, 2, 3, 20, 2, "cpu"),
    "eagle": lambda: measure_models.draft_case(replace(DENSE, layers=1), 2, 3, 20, 2, "cpu"),
    "layers": lambda: measure_models.stack_case(SPARSE, 2, 2, 3, 20, "cpu"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_case_runs_and_writes_its_outputs(name, monkeypatch):
    monkeypatch.setattr(timing, "L2_BYTES", 2000)
    case = CASES[name]()
    assert len(case.calls) >= (timing.sets_needed(case.cold_bytes) if case.cold_bytes else 3)
    timing.check_written([t for call in case.calls[-3:] for t in timing._tensors(call())])
    row = case.row(timing.Timing(1.0, 2.0, 4.0, 20, 10, 3))
    assert row["tb_s"] == pytest.approx(case.bytes / 2e6)
    keys = {"kernel", "backend", "shape", "tokens", "distinct", "context", "q_len", "batch", "us_p10", "us_p90"}
    assert keys <= set(row)


def test_moe_case_logs_the_distinct_experts_it_asked_for(monkeypatch):
    monkeypatch.setattr(timing, "L2_BYTES", 2000)
    assert measure.moe_case(SPARSE, 6, "uniform", 5, "cpu").at["distinct"] == 5


def test_unwritten_output_and_warm_rotation_are_refused():
    with pytest.raises(RuntimeError, match=r"output 0 .* never written"):
        timing.check_written([torch.tensor([1.0, float("nan")])])
    with pytest.raises(ValueError, match="240 are needed"):
        timing.time_calls([lambda: None] * 3, 2**20)


def test_suite_keys_are_unique_ordered_and_shared_between_models():
    points = suite.points(SHAPES)
    assert len({p.key for p in points}) == len(points) < 6000
    assert [p.tier for p in points] == sorted(p.tier for p in points)
    assert len(suite.points(["qwen3-30b-a3b", "qwen3-30b-a3b"])) == len(suite.points(["qwen3-30b-a3b"]))
    assert {p.kernel for p in suite.points(["deepseek-v2-lite"])} == {
        "moe", "gemm", "rejection", "latent", "prefill", "norm", "silu_mul",
    }  # fmt: skip


def test_run_skips_what_is_known_and_stops_in_time(monkeypatch):
    monkeypatch.setattr(suite.Point, "measure", lambda self, _: {"key": self.key})
    todo = suite.points(["deepseek-v2-lite"])
    every = [p.key for p in todo]
    first = [row["key"] for row, _ in zip(suite.run(todo), range(10), strict=False)]
    assert first == every[:10]
    assert [row["key"] for row in suite.run(todo, known=set(first))] == every[10:]
    assert list(suite.run(todo, seconds=-1)) == []


def test_work_by_hand():
    assert dense.project_bytes(3, 4, 5) == 2 * (20 + 3 * 9)
    assert dense.project_flops(3, 4, 5) == 2 * 60
    assert dense.norm_bytes(3, 4) == 2 * 4 * 12
    assert dense.silu_mul_bytes(3, 4) == 2 * 3 * 12
    assert rope.rope_bytes(3, 4, 2, 8) == 2 * 2 * 3 * 8 * 8
