import pytest
import torch

from kernels import numerics, prefill_attention, verify_attention
from kernels.shapes import Shape


@pytest.mark.parametrize("q_len", range(1, 10))
def test_verify_against_float64_at_page_and_block_boundaries(q_len):
    lengths = [q_len, 15, 16, 17, 65] if q_len % 2 else [64, 63, 33]
    lengths = [max(n, 1) for n in lengths]
    assert numerics.check_attention(4, 2, 32, q_len, lengths, "cpu", (None, 1, 3)[q_len % 3]) < 1e-2


@pytest.mark.parametrize(("heads", "kv_heads", "q_len"), [(7, 1, 10), (16, 1, 9), (14, 2, 3)])
def test_groups_that_fill_several_tiles_or_none(heads, kv_heads, q_len):
    assert numerics.check_attention(heads, kv_heads, 64, q_len, [40, 21], "cpu") < 1e-2


@pytest.mark.parametrize("splits", [1, 4])
def test_queries_before_a_short_sequence_give_zeros(splits):
    q, k, v = torch.randn(1, 5, 2, 32), torch.randn(1, 1, 16, 32), torch.randn(1, 1, 16, 32)
    table, lens = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    out = verify_attention.attend(q, k, v, table, lens, 16, splits=splits)
    assert torch.equal(out[0, :2], torch.zeros(2, 2, 32))
    assert numerics.relative_error(out, verify_attention.reference(q, k, v, table, lens)) < 1e-6


def test_splits_fill_the_gpu_once_and_stay_one_when_the_batch_does():
    assert verify_attention.split_count(256, 4, 4096, 64) == 1
    assert 200 <= 4 * verify_attention.split_count(1, 4, 32768, 64) <= 264
    assert verify_attention.split_count(1, 4, 100, 64) == 1
    assert all(verify_attention.split_count(b, 8, 10**6, 64) <= 128 for b in (1, 3, 17, 33))


def test_rows_stay_one_wgmma_tile_up_to_64():
    assert [verify_attention.tile_rows(q, 8) for q in (1, 8, 9)] == [64, 64, 128]


@pytest.mark.parametrize(("chunk", "context"), [(20, 30), (17, 0)])
def test_prefill_against_float64(chunk, context):
    shape = Shape("tiny", 64, 1, 4, 2, 32, 97)
    assert numerics.check_prefill(shape, chunk, context, "cpu") < 1e-2


def test_work_by_hand():
    # two sequences of 3 and 5 tokens, 2 queries each, 4 heads over 2 kv heads of 8: K and V once, q in, o out, bf16
    assert verify_attention.bytes_moved([3, 5], 2, 4, 2, 8) == 2 * (2 * 8 * 2 * 8 + 2 * 2 * 2 * 4 * 8)
    assert verify_attention.flops([3, 5], 2, 4, 8) == 2 * 2 * 8 * 2 * 4 * 8
    # 2 new tokens after 3, 4 heads of 8 over 1 kv head; pairs seen: 4 + 5
    assert prefill_attention.bytes_moved(3, 2, 4, 1, 8) == 2 * 8 * (2 * 5 + 2 * 2 * 4)
    assert prefill_attention.flops(3, 2, 4, 8) == 4 * 4 * 8 * 9
