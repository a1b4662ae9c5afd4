import json
from dataclasses import replace

import pytest
import torch

from kernels import configs, formats, moe, numerics, routing
from kernels.shapes import Shape

# Neither size divides by a block; more experts than a token can reach, so that some stay empty.
SHAPE = Shape("tiny", 80, 1, 4, 2, 32, 97, experts=12, topk=3, expert_intermediate=40)
GEMM = configs.Gemm(16, 32, 32, 4, 3, group=2)
WIDE = configs.Gemm(16, 32, 32, 4, 3, group=2, wide=True)
CONFIG = configs.Moe(GEMM, GEMM)
CONFIGS = [CONFIG, configs.Moe(WIDE, WIDE), configs.Moe(WIDE, GEMM)]


@pytest.mark.parametrize(
    ("tokens", "distinct", "law"),
    [
        (1, None, "uniform"),  # the GEMMs find their pairs themselves
        (3, None, "uniform"),
        (5, 4, "uniform"),  # aligned; eight experts empty
        (20, 3, "uniform"),  # one hot set: two tiles an expert
        (30, None, "skewed"),
        (16, 12, "balanced"),
    ],
)
@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("config", CONFIGS)
def test_layer_against_float64(tokens, distinct, law, renormalise, config):
    shape = replace(SHAPE, renormalise=renormalise)
    assert numerics.check_moe(shape, tokens, "cpu", distinct, law, config) < 1.5e-2  # the interpreter truncates to bf16


def test_layer_in_fp32_is_exact_to_rounding_with_a_gated_shared_expert():
    x, w1, w2 = torch.randn(6, 80), torch.randn(12, 80, 80) / 9, torch.randn(12, 80, 40) / 6
    shared, gate = torch.randn(6, 80), torch.randn(6, 1)
    weights, ids = routing.top_k(torch.randn(6, 12), 3)
    out = moe.experts_mlp(x, w1, w2, weights, ids, config=CONFIG, shared=shared, shared_gate=gate)
    expected = moe.reference(x, w1, w2, weights, ids) + torch.sigmoid(gate.double()) * shared
    assert numerics.relative_error(out, expected) < 1e-6


@pytest.mark.parametrize("group", [1, 3, 16])
def test_tile_order_changes_nothing(group):
    config = configs.Moe(replace(GEMM, group=group), replace(GEMM, group=group))
    assert numerics.check_moe(SHAPE, 40, "cpu", config=config) < 1e-2


def test_even_sizes_take_the_unmasked_path():
    shape = replace(SHAPE, hidden=64, expert_intermediate=32)
    assert numerics.check_moe(shape, 9, "cpu", config=CONFIG) < 1e-2


@pytest.mark.parametrize(
    ("tokens", "distinct", "law"), [(1, None, "uniform"), (5, 4, "uniform"), (20, 3, "uniform"), (30, None, "skewed")]
)
@pytest.mark.parametrize("weights", ["fp8", "mxfp4"])
def test_quantised_layers_against_float64(tokens, distinct, law, weights):
    sizes = {"fp8": (200, 160), "mxfp4": (192, 128)}[weights]  # of fp8, neither divides by a block
    shape = replace(SHAPE, expert_format=weights, hidden=sizes[0], expert_intermediate=sizes[1])
    gemm = configs.Gemm(16, 128 if weights == "fp8" else 32, 128, 4, 3, group=2)
    assert numerics.check_moe(shape, tokens, "cpu", distinct, law, configs.Moe(gemm, gemm)) < 1.5e-2


@pytest.mark.parametrize("weights", ["fp8", "mxfp4"])
def test_quantised_layers_take_the_unmasked_path_and_their_rule(weights):
    shape = replace(SHAPE, expert_format=weights, hidden=256, expert_intermediate=128, experts=4, topk=2)
    assert numerics.check_moe(shape, 9, "cpu") < 1e-2


def test_fp8_layer_equals_float64_on_the_same_rounded_activations():
    x, w1, w2 = torch.randn(6, 200).bfloat16(), torch.randn(4, 2, 160, 200) / 14, torch.randn(4, 200, 160) / 12
    w1, w2 = formats.to_fp8(w1), formats.to_fp8(w2)
    weights, ids = routing.top_k(torch.randn(6, 4), 2)
    config = configs.Gemm(16, 128, 128, 4, 3)
    out = moe.experts_mlp(x, w1, w2, weights, ids, config=configs.Moe(config, config))

    def rounded(t):
        data, scales = formats.activations_to_fp8(t)
        return data.double() * scales.double().repeat_interleave(128, 1)[:, : t.shape[1]]

    expected = torch.zeros(6, 200, dtype=torch.float64)
    for t in range(6):
        for weight, expert in zip(weights[t], ids[t].tolist(), strict=True):
            up, down = (formats.dequantize(formats.Quantized(*(part[expert] for part in w))) for w in (w1, w2))
            gate, up = rounded(x)[t] @ up.transpose(1, 2)
            act = torch.nn.functional.silu(gate) * up
            expected[t] += weight * (rounded(act[None].float())[0] @ down.T)
    assert numerics.relative_error(out, expected) < 1e-2


def test_work_by_hand():
    # 2 distinct experts of 3 matrices 4 x 5 in bf16, 3 tokens of 4 in and out; 3 x 2 pairs through 3 matrices
    assert moe.bytes_moved(3, 2, 4, 5) == 2 * (2 * 3 * 20 + 2 * 12)
    assert moe.flops(3, 2, 4, 5) == 2 * 6 * 60


def test_rule_follows_tuned_tables_of_engines():
    qwen3, mixtral = configs.MoeKey(128, 8, 2048, 768), configs.MoeKey(8, 2, 4096, 14336)
    found = [configs.rule(qwen3, t).down.block_m for t in (1, 64, 128, 256, 512, 2048)]
    assert found == [16, 16, 16, 32, 64, 128]
    assert [configs.rule(mixtral, t).down.block_m for t in (1, 32, 64, 128, 256)] == [16, 16, 32, 64, 128]


def test_every_candidate_fits_shared_memory():
    for tables, matrices in ((configs.GATE_UP, 2), (configs.DOWN, 1)):
        for weights, table in tables.items():
            for block_m in table:
                for config in configs.candidates(tables, weights, block_m, True):
                    assert config.shared_bytes(matrices, weights) <= 227 * 1024


def test_quantised_rules_stay_within_what_their_programs_can_hold():
    v3, oss = configs.MoeKey(256, 8, 7168, 2048, "fp8"), configs.MoeKey(128, 4, 2880, 2880, "mxfp4")
    for tokens in (1, 100, 1000, 10000):
        for key in (v3, oss):
            assert configs.rule(key, tokens).gate_up.block_m in configs.GATE_UP[key.weights]
        assert configs.rule(v3, tokens).gate_up.block_n == formats.BLOCK


def test_table_is_read_back_by_bucket_and_format(tmp_path):
    key, file = configs.MoeKey(8, 2, 80, 40), tmp_path / "tuned.json"
    fp8 = key._replace(weights="fp8")
    rows = [configs.as_row(key, 64, CONFIG) | {"us": 1.0}, configs.as_row(fp8, 64, CONFIG)]
    del rows[0]["weights"]
    file.write_text(json.dumps({"moe": rows}))
    assert configs.table(file) == {(key, 64): CONFIG, (fp8, 64): CONFIG}
    assert [configs.bucket(t) for t in (1, 3, 45, 46, 90, 91)] == [1, 4, 32, 64, 64, 128]


def test_both_gemms_share_a_tile_list():
    with pytest.raises(ValueError, match="must share block_m: 16 != 32"):
        configs.Moe(GEMM, replace(GEMM, block_m=32))
