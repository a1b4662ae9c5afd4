"""Models as they are served, in 8 and 4 bits and with latent attention: priced by the tables of their own format and
rank, and by fits where there are none.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdsim import matrices
from sdsim.drafts import make_draft
from sdsim.experts import make_routing
from sdsim.gpus import load_gpu
from sdsim.latency.calibrated import CalibratedKernels
from sdsim.latency.calibration import load_shipped
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import load_engine
from sdsim.latency.leave_out import without
from sdsim.latency.prices import Prices
from sdsim.latency.quality import Quality
from sdsim.latency.roofline import RooflineKernels
from sdsim.model_config import weight_format
from sdsim.models import load_model
from sdsim.parallel import Layout
from sdsim.scenario import load_scenario
from sdsim.simulation import simulate
from sdsim.testing import check_latency_model

SCENARIOS = Path(__file__).parent.parent / "scenarios"
H200 = load_gpu("h200")
V3, OSS = load_model("deepseek-v3"), load_model("gpt-oss-120b")
SHIPPED = load_shipped("h200")
assert SHIPPED is not None


def row(kernel, shape, us, **at):
    """Return a measurement with work that a fit can use."""
    return {"kernel": kernel, "shape": shape, "us_p50": us, "bytes": 4e6 * us, "flops": 1e6 * us, **at}


def with_rows(*rows):
    """Return kernels of what is shipped in bf16 and without latent attention, and of *rows*."""
    plain = [r for r in SHIPPED.rows if "weights" not in r["shape"] and r["kernel"] not in ("latent", "prefill")]
    return CalibratedKernels(replace(SHIPPED, rows=(*plain, *rows)), H200)


def test_formats_by_width():
    assert [weight_format(m.expert_bytes) for m in (V3, OSS)] == ["fp8", "mxfp4"]
    assert [weight_format(width) for width in (4.0, 2.0, 1.0, 0.5)] == ["fp32", "bf16", "fp8", "mxfp4"]
    assert (weight_format(V3.weight_bytes), weight_format(V3.head_bytes)) == ("fp8", "bf16")
    assert weight_format(OSS.weight_bytes) == "bf16"


@pytest.mark.parametrize(("name", "least", "most"), [("deepseek_v3", 0.1, 0.5), ("gpt_oss", 0.0, 0.05)])
def test_they_run_on_kernels_that_were_timed_and_say_what_was_not(name, least, most):
    """Of DeepSeek-V3 on eight GPUs the collectives have no tables."""
    scenario = load_scenario(SCENARIOS / f"{name}.yaml", ["workload.limit=20"])
    for policy in scenario.policies:
        summary = simulate(scenario, policy=policy).summary
        assert summary["requests"]["finished"] == 20
        assert least <= summary["data_quality"]["extrapolated"] <= most


@pytest.mark.parametrize(("model", "ranks"), [(V3, 8), (OSS, 1), (load_model("deepseek-v2-lite"), 1)])
@pytest.mark.parametrize("kernels", [RooflineKernels(H200), CalibratedKernels(SHIPPED, H200)])
def test_contract(model, ranks, kernels):
    check_latency_model(
        ComposedLatency(model, make_draft("mtp", model), kernels, load_engine("ideal"), Layout(ranks, ranks))
    )


def test_a_table_serves_its_own_format_only():
    shape = {"experts": 128, "topk": 4, "hidden": 2880, "intermediate": 2880}
    at = {"tokens": 64, "distinct": 100}
    bf16 = with_rows(row("moe", shape, 3000.0, **at))
    fp4 = with_rows(row("moe", shape, 3000.0, **at), row("moe", shape | {"weights": "mxfp4"}, 900.0, **at))
    assert bf16.experts(OSS, 1.0).price(64, 100).quality is Quality.EXTRAPOLATED
    assert fp4.experts(OSS, 1.0).price(64, 100) == (pytest.approx(900e-6), Quality.MEASURED)


def test_fp8_products_have_tables_of_their_own():
    matrix = matrices.attention(V3)[0]
    shape = {"inputs": matrix.inputs, "outputs": matrix.outputs}
    plain, fp8 = row("gemm", shape, 40.0, tokens=16), row("gemm", shape | {"weights": "fp8"}, 25.0, tokens=16)
    kernels = with_rows(plain, fp8)
    for width, us, quality in ((V3.weight_bytes, 25.0, 0), (2.0, 40.0, 0), (4.0, None, 2)):
        found = kernels.dense(np.array([16]), matrix, width)
        assert found.quality.tolist() == [Quality(quality)]
        assert us is None or found.seconds.tolist() == pytest.approx([1e-6 * us])


def test_ranks_that_split_experts_have_tables_of_their_width():
    shape = {"experts": 256, "topk": 8, "hidden": 7168, "intermediate": 256, "weights": "fp8"}
    kernels = with_rows(*(row("moe", shape, us, tokens=64, distinct=d) for d, us in ((100, 200.0), (200, 400.0))))
    assert kernels.experts(V3, 1 / 8).price(64, 200) == (pytest.approx(400e-6), Quality.MEASURED)
    assert kernels.experts(V3, 1 / 8).price(64, 150).seconds == pytest.approx(300e-6)
    assert kernels.experts(V3, 1.0).price(64, 200).quality is Quality.EXTRAPOLATED


def latent_rows(heads):
    shape, by_heads = {"heads": heads, "rank": 512, "rope": 64}, {"heads": heads, "kv_heads": heads, "head_dim": 192}
    verify = [
        row("latent", shape, 20.0 + b * c * q / 4000, batch=b, context=c, q_len=q)
        for b in (1, 64)
        for c in (256, 16384)
        for q in (1, 5, 9)
    ]
    chunks = [(512, 512), (512, 4608), (2048, 2048), (2048, 6144)]
    return *verify, *(row("prefill", by_heads, n * c / 4000, tokens=n, context=c, q_len=n, batch=1) for n, c in chunks)


def test_latent_attention_is_looked_up_by_the_heads_of_a_rank():
    kernels = with_rows(*latent_rows(16))
    found = kernels.attention(V3, 1 / 8)
    assert found.verify(64, 64, 64 * 16383, 64 * 16383) == pytest.approx(20e-6 + 64 * 16384 / 4000 * 1e-6)
    assert found.quality(64, 64 * 1000) is Quality.INTERPOLATED
    assert kernels.attention(V3, 1.0).quality(1, 1) is Quality.EXTRAPOLATED
    left = CalibratedKernels(without(kernels.calibration, load_model("deepseek-v2-lite")), H200)
    assert left.attention(V3, 1 / 8).quality(1, 1) is Quality.EXTRAPOLATED  # its 16 heads are those of the rank


def test_prompts_attend_by_heads_and_expand_what_is_stored():
    floor = RooflineKernels(H200).attention(V3, 1 / 8)
    chunk = 2048
    pairs = chunk * chunk // 2
    by_heads, absorbed = floor.prefill(1, chunk, 0, pairs), floor.verify(1, chunk, 0, pairs)
    assert absorbed / by_heads == pytest.approx((2 * 512 + 64) / (192 + 128))
    more = floor.prefill(1, chunk, 4096, pairs + chunk * 4096) - floor.prefill(1, chunk, 0, pairs + chunk * 4096)
    assert more == pytest.approx(4096 * 2 * 512 * 16 * 256 / RooflineKernels(H200).flops_per_s)
    assert more == pytest.approx(4096 * floor.expand_s)
    assert RooflineKernels(H200).attention(OSS, 1.0).expand_s == 0


def test_verification_of_latents_becomes_compute_bound_where_the_heads_say():
    """Absorbed MLA does 1.89 x heads x q flops a cached byte: flat in q until the ridge, linear beyond it."""
    floor = RooflineKernels(H200)
    ridge = floor.flops_per_s / floor.bytes_per_s
    for heads, share in ((128, 1.0), (16, 1 / 8)):
        attention = floor.attention(V3, share)
        stored = 64 * 8192
        times = {q: attention.verify(64, 64 * q, stored, q * stored) for q in (1, 2, 16, 32)}
        turns = ridge / (2 * heads * 1088 / 1152)
        assert (times[2] / times[1] > 1.5) == (turns < 1)
        assert times[32] / times[16] == pytest.approx(2, rel=0.02)


def test_verifying_nine_tokens_over_long_latents_costs_more_than_one():
    kernels = RooflineKernels(H200)
    latency = ComposedLatency(V3, make_draft("mtp", V3), kernels, load_engine("ideal"), Layout(8, 8))
    prices = Prices(latency, make_routing(256, 8))
    grown = prices.verify_seconds(64, 64 * 9, 32000) / prices.verify_seconds(64, 64, 32000)
    assert grown > 1.5
