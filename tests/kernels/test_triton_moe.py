from dataclasses import replace

import pytest
import torch

from kernels import configs, moe, numerics, routing
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


def test_work_by_hand():
    # 2 distinct experts of 3 matrices 4 x 5 in bf16, 3 tokens of 4 in and out; 3 x 2 pairs through 3 matrices
    assert moe.bytes_moved(3, 2, 4, 5) == 2 * (2 * 3 * 20 + 2 * 12)
    assert moe.flops(3, 2, 4, 5) == 2 * 6 * 60


def test_rule_follows_tuned_tables_of_engines():
    qwen3, mixtral = (128, 8, 2048, 768), (8, 2, 4096, 14336)
    found = [configs.rule(qwen3, t).down.block_m for t in (1, 64, 128, 256, 512, 2048)]
    assert found == [16, 16, 16, 32, 64, 128]
    assert [configs.rule(mixtral, t).down.block_m for t in (1, 32, 64, 128, 256)] == [16, 16, 32, 64, 128]


def test_every_candidate_fits_shared_memory():
    for table, matrices in ((configs.GATE_UP, 2), (configs.DOWN, 1)):
        for block_m in table:
            for config in configs.candidates(table, block_m, True):
                assert config.shared_bytes(matrices) <= 227 * 1024


def test_table_is_read_back_by_bucket(tmp_path):
    import json

    key, file = (8, 2, 80, 40), tmp_path / "tuned.json"
    file.write_text(json.dumps({"moe": [configs.as_row(key, 64, CONFIG) | {"us": 1.0}]}))
    assert configs.table(file) == {(key, 64): CONFIG}
    assert [configs.bucket(t) for t in (1, 3, 45, 46, 90, 91)] == [1, 4, 32, 64, 64, 128]


def test_both_gemms_share_a_tile_list():
    with pytest.raises(ValueError, match="must share block_m: 16 != 32"):
        configs.Moe(GEMM, replace(GEMM, block_m=32))
