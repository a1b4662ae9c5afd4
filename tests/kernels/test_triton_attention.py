import pytest
import torch

from kernels import latent_attention, numerics, prefill_attention, splits, verify_attention
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


def splits_of(batch, kv_heads, length, rows=8, dim=128):
    numbers = batch * kv_heads * rows * dim
    return splits.best_split(
        verify_attention.walks(dim, 64), batch * kv_heads, rows, length, 4 * batch * length * kv_heads * dim, numbers
    )


def test_parts_fill_the_gpu_where_sequences_are_few_and_are_one_where_they_are_many():
    assert splits_of(256, 4, 4096)[1] == 1
    assert 200 <= 4 * splits_of(1, 4, 32768)[1] <= 264
    assert splits_of(1, 4, 60)[1] == 1
    assert all(splits_of(b, 8, 10**6)[1] <= 128 for b in (1, 3, 17, 33))


@pytest.mark.parametrize(
    ("batch", "kv_heads", "length", "rows", "best", "times"),
    [
        (29, 4, 2434, 40, 2, {1: 65.3, 2: 52.5, 3: 75.3, 9: 78.3}),
        (166, 4, 358, 40, 1, {1: 54.6, 2: 83.3, 3: 146.6}),
        (70, 8, 866, 5, 1, {1: 92.9, 2: 92.9, 3: 106.4, 4: 113.7}),
        (12, 4, 3600, 8, 5, {1: 90.8, 2: 48.5, 4: 39.4, 5: 34.1, 8: 43.6}),
        (8, 4, 1024, 8, 8, {1: 33.3, 2: 19.1, 4: 13.5, 8: 12.7, 12: 13.7}),
    ],
)
def test_the_number_of_parts_is_that_of_the_least_time_on_an_h200(batch, kv_heads, length, rows, best, times):
    walk, chosen = splits_of(batch, kv_heads, length, rows)
    assert times.get(chosen, 1e9) <= 1.02 * times[best]
    kv_bytes, numbers = 4 * batch * length * kv_heads * 128, batch * kv_heads * rows * 128
    for parts, measured in times.items():
        predicted = walk.microseconds(batch * kv_heads, length, kv_bytes, numbers, parts)
        assert predicted == pytest.approx(measured, rel=0.4)


def test_rows_stay_one_wgmma_tile_up_to_64():
    assert [verify_attention.tile_rows(q, 8) for q in (1, 8, 9)] == [64, 64, 128]


@pytest.mark.parametrize(("chunk", "context"), [(20, 30), (17, 0)])
def test_prefill_against_float64(chunk, context):
    shape = Shape("tiny", 64, 1, 4, 2, 32, 97)
    assert numerics.check_prefill(shape, chunk, context, "cpu") < 1e-2


@pytest.mark.parametrize("q_len", range(1, 10))
def test_latent_attention_against_float64_at_page_and_block_boundaries(q_len):
    lengths = [[q_len, 31, 32, 33, 65], [64, 63, 130]][q_len % 2]
    assert numerics.check_latent(8, 64, 16, q_len, lengths, "cpu", (None, 1, 3)[q_len % 3]) < 1e-2


@pytest.mark.parametrize(("heads", "q_len"), [(16, 9), (5, 13), (128, 1)])
def test_latent_attention_over_several_tiles_or_part_of_one(heads, q_len):
    assert numerics.check_latent(heads, 32, 16, q_len, [40, 21], "cpu") < 1e-2


@pytest.mark.parametrize("splits", [1, 4])
def test_latent_queries_before_a_short_sequence_give_zeros(splits):
    q, cache = torch.randn(1, 5, 2, 48), torch.randn(1, 64, 48)
    table, lens = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    out = latent_attention.attend(q, cache, table, lens, 64, 32, 0.2, splits=splits)
    assert torch.equal(out[0, :2], torch.zeros(2, 2, 32))
    assert numerics.relative_error(out, latent_attention.reference(q, cache, table, lens, 32, 0.2)) < 1e-6


def test_absorbed_attention_is_attention_by_heads_over_expanded_latents():
    """The identity behind the kernel, in float64: scores q W k with W moved to the query's side, values W after."""
    heads, nope, rope, rank, value, n = 3, 8, 4, 6, 5, 7
    q = torch.randn(1, 1, heads, nope + rope, dtype=torch.float64)
    cache = torch.randn(1, 64, rank + rope, dtype=torch.float64)
    to_key, to_value = torch.randn(heads, nope, rank).double(), torch.randn(heads, value, rank).double()
    absorbed = torch.cat([torch.einsum("bqhd,hdr->bqhr", q[..., :nope], to_key), q[..., nope:]], -1)
    table, lens = torch.zeros(1, 1, dtype=torch.int32), torch.tensor([n], dtype=torch.int32)
    latents = latent_attention.reference(absorbed, cache, table, lens, rank, 0.3)
    found = torch.einsum("bqhr,hvr->bqhv", latents, to_value)
    stored, shared = cache[0, :n, :rank], cache[0, :n, rank:]
    for h in range(heads):
        keys = torch.cat([stored @ to_key[h].T, shared], -1)
        expected = (0.3 * keys @ q[0, 0, h]).softmax(0) @ (stored @ to_value[h].T)
        torch.testing.assert_close(found[0, 0, h], expected)


def test_work_by_hand():
    # 2 sequences of 3 and 5 latents of 8 + 2, 2 queries each of 4 heads: cache once, q of 10 in, o of 8 out, bf16
    assert latent_attention.bytes_moved([3, 5], 2, 4, 8, 2) == 2 * (8 * 10 + 2 * 2 * 4 * 18)
    assert latent_attention.flops([3, 5], 2, 4, 8, 2) == 2 * 8 * 2 * 4 * 18
    # two sequences of 3 and 5 tokens, 2 queries each, 4 heads over 2 kv heads of 8: K and V once, q in, o out, bf16
    assert verify_attention.bytes_moved([3, 5], 2, 4, 2, 8) == 2 * (2 * 8 * 2 * 8 + 2 * 2 * 2 * 4 * 8)
    assert verify_attention.flops([3, 5], 2, 4, 8) == 2 * 2 * 8 * 2 * 4 * 8
    # 2 new tokens after 3, 4 heads of 8 over 1 kv head; pairs seen: 4 + 5
    assert prefill_attention.bytes_moved(3, 2, 4, 1, 8) == 2 * 8 * (2 * 5 + 2 * 2 * 4)
    assert prefill_attention.flops(3, 2, 4, 8) == 4 * 4 * 8 * 9
