"""Attention of q_len new tokens per sequence over a paged KV cache: decode (q_len 1) and verification (K + 1).

The q_len x group query rows of one KV head share a tile of 64 rows, so that the KV cache is read once for all of them
and time stays flat up to 64 rows. Splits over the KV length keep all SMs busy at every q_len; a second kernel combines
them. Pages are laid out [page, kv head, token, head_dim]: one page of one head is contiguous.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._triton import SMS, UPCAST, cdiv
from kernels.splits import START, Walk, best_split, make_parts

PAGE = 16  # tokens
STAGES = 5
MASKED = tl.constexpr(-1e30)  # exp2(MASKED - START) is 0: a row with nothing to attend to sums to 0


def reference(q: Tensor, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, seq_lens: Tensor) -> Tensor:
    """float64 [B, q_len, heads, D]; query i of a sequence sees seq_len - q_len + i + 1 tokens, or none: zeros."""
    batch, q_len, heads, dim = q.shape
    group = heads // k_cache.shape[1]
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    for b in range(batch):
        length = int(seq_lens[b])
        pages = block_table[b, : cdiv(length, PAGE)].long()
        k, v = (c[pages].transpose(1, 2).flatten(0, 1)[:length].double() for c in (k_cache, v_cache))  # [length, kv, D]
        for i in range(max(0, q_len - length), q_len):
            n = length - q_len + i + 1
            score = torch.einsum("hgd,nhd->hgn", q[b, i].double().view(-1, group, dim), k[:n]) / math.sqrt(dim)
            out[b, i] = torch.einsum("hgn,nhd->hgd", score.softmax(-1), v[:n]).reshape(heads, dim)
    return out


@triton.jit(do_not_specialize=["scale", "q_len", "group", "kv_heads", "stride", "splits"])
def _attend(
    q, k_cache, v_cache, table, seq_lens, out, part_o, part_m, part_l, scale, q_len, group, kv_heads, stride, splits,
    dim: tl.constexpr, page: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, one_split: tl.constexpr,
    upcast: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % kv_heads
    tile = tl.program_id(0) // kv_heads
    split = tl.program_id(1)
    b = tl.program_id(2)
    length = tl.load(seq_lens + b)
    row = tile * block_m + tl.arange(0, block_m)
    real = row < q_len * group
    query = row // group
    out_row = (b * q_len + query) * kv_heads * group + head * group + row % group
    d = tl.arange(0, dim)
    qs = tl.load(q + out_row[:, None] * dim + d[None, :], mask=real[:, None], other=0.0)
    if upcast:
        qs = qs.to(tl.float32)
    share = tl.cdiv(tl.cdiv(length, block_n), splits) * block_n
    low = split * share
    high = tl.minimum(low + share, length)
    last = length - q_len + query  # the newest token that the row's query may see
    m = tl.full((block_m,), START, tl.float32)
    total = tl.zeros((block_m,), tl.float32)
    acc = tl.zeros((block_m, dim), tl.float32)
    for start in range(low, high, block_n):
        n = start + tl.arange(0, block_n)
        inside = n < high
        number = tl.load(table + b * stride + n // page, mask=inside, other=0)
        at = ((number.to(tl.int64) * kv_heads + head) * page + n % page) * dim
        k = tl.load(k_cache + at[None, :] + d[:, None], mask=inside[None, :], other=0.0)
        v = tl.load(v_cache + at[:, None] + d[None, :], mask=inside[:, None], other=0.0)
        if upcast:
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        s = tl.dot(qs, k) * scale
        s = tl.where(inside[None, :] & (n[None, :] <= last[:, None]), s, MASKED)
        m_new = tl.maximum(m, tl.max(s, 1))
        p = tl.exp2(s - m_new[:, None])
        shrink = tl.exp2(m - m_new)
        total = total * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        m = m_new
    if one_split:
        acc = acc / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(out + out_row[:, None] * dim + d[None, :], acc.to(out.dtype.element_ty), mask=real[:, None])
    else:
        at = out_row.to(tl.int64) * splits + split
        tl.store(part_o + at[:, None] * dim + d[None, :], acc, mask=real[:, None])
        tl.store(part_m + at, m, mask=real)
        tl.store(part_l + at, total, mask=real)


def tile_rows(q_len: int, group: int) -> int:
    """Rows of a tile: one wgmma (64), or two when the queries of a KV head need more."""
    return 64 if q_len * group <= 64 else 128


def walks(dim: int, rows: int) -> tuple[Walk, ...]:
    """Tiles of *rows*, blocks of 32 keys or more a step of the loop, two programs an SM with up to 100 KB in flight.

    Fitted to 125 sizes of eight models with one to sixty splits each on an H200: what is chosen takes 1.8% longer than
    the best of those tried, in the mean.
    """
    widths = ((keys, keys * dim / 4096) for keys in (32, 64, 128) if keys == 32 or keys * dim <= 8192)
    return tuple(Walk(rows, keys, 2 * SMS, 0.2 + 0.6 * width, 1.0 + 2.0 * width) for keys, width in widths)


def attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    max_length: int,
    *,
    splits: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """q [B, q_len, heads, D], caches [pages, kv_heads, 16, D], block_table [B, n] and seq_lens [B] int32 -> like q.

    seq_lens count the q_len new tokens, whose keys and values are in the cache already. *max_length* is the host's
    bound on seq_lens; only the number of splits depends on it.
    """
    batch, q_len, heads, dim = q.shape
    kv_heads = k_cache.shape[1]
    group = heads // kv_heads
    block_m = tile_rows(q_len, group)
    tiles = cdiv(q_len * group, block_m)
    kv_bytes = 4 * batch * max_length * kv_heads * dim
    walk, best = best_split(walks(dim, block_m), batch * kv_heads, q_len * group, max_length, kv_bytes, q.numel())
    splits = splits or best
    out = torch.empty_like(q) if out is None else out
    parts = make_parts(batch * q_len * heads, splits, dim, q.device)
    _attend[(kv_heads * tiles, splits, batch)](
        q, k_cache, v_cache, block_table, seq_lens, out, *parts, math.log2(math.e) / math.sqrt(dim),
        q_len, group, kv_heads, block_table.stride(0), splits, dim, k_cache.shape[2], block_m, walk.tokens, splits == 1,
        UPCAST, num_warps=block_m // 16, num_stages=STAGES,
    )  # fmt: skip
    if splits > 1:
        parts.combine(out, splits)
    return out


def bytes_moved(
    context_lengths: list[int], q_len: int, heads: int, kv_heads: int, head_dim: int, itemsize: int = 2
) -> int:
    """Keys and values of every context token once, queries in and outputs out."""
    kv = 2 * sum(context_lengths) * kv_heads * head_dim
    return itemsize * (kv + 2 * len(context_lengths) * q_len * heads * head_dim)


def flops(context_lengths: list[int], q_len: int, heads: int, head_dim: int) -> int:
    """Scores and weighted values of every query over its whole context (the causal corner is not taken off)."""
    return 4 * sum(context_lengths) * q_len * heads * head_dim
