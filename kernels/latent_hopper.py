"""Latent attention on Hopper: tokens, not query rows, are wgmma's M, and pages come by TMA.

Up to 32 query rows of a sequence are wgmma's N, so that a decode step of 16 heads computes no empty rows, and its
accumulator leaves registers for the rest: scores [page, rows] = page x queries^T, then latents [rank, rows] += page^T x
weights, both from the same page in shared memory. Two pages are in flight: the one after next is fetched as soon as a
page is done with. Gluon, since Triton's own pipeline would need a third buffer for that, which does not fit.

On an H200 with 16 heads and one query: 7.2 us for 1 x 1k tokens, 14.9 for 16 x 1k, 28.5 for 64 x 1k, 29.1 for 16 x 4k,
80.6 for 64 x 4k (3.75 TB/s), 281 for 256 x 4k (4.31 TB/s); with 64 rows and more 300 TFLOP/s.
docs/kernel-notes.md has the steps on the way.
"""

from functools import lru_cache
from typing import Any

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels._triton import SMS, cdiv, power_of_2
from kernels.splits import Parts, Walk

MASKED = gl.constexpr(-1e30)
START = gl.constexpr(-1e29)
BUFFERS = gl.constexpr(2)
WARPS = 4
fetch = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared  # as Triton calls it after 3.6
barrier = getattr(gl, "barrier", None) or gl.thread_barrier
FEWEST, MOST = 16, 32  # query rows of a program
WALKS = {16: Walk(64, SMS, 1.4, 3.0), 32: Walk(64, SMS, 1.9, 3.0)}  # within 0.4% of the best of those tried


@gluon.jit
def _fetch(
    latents, keys, number, ready, latent, key, wanted, page: gl.constexpr, rank: gl.constexpr, rope: gl.constexpr
):
    mbarrier.expect(ready, page * (rank + rope) * 2, pred=wanted)
    fetch(latents, [number * page, 0], ready, latent, pred=wanted)
    fetch(keys, [number * page, rank], ready, key, pred=wanted)


@gluon.jit
def _queries(q, row, real, start: gl.constexpr, columns: gl.constexpr, width: gl.constexpr, layout: gl.constexpr):
    """Queries [rows, columns] in shared memory."""
    column = start + gl.arange(0, columns, gl.SliceLayout(0, layout))
    found = gl.load(q + (row[:, None] * width + column[None, :]), mask=real[:, None], other=0.0)
    shared: gl.constexpr = gl.NVMMASharedLayout.get_default_for([found.shape[0], columns], gl.bfloat16)
    return gl.allocate_shared_memory(gl.bfloat16, [found.shape[0], columns], shared, found)


@gluon.jit
def _blank(latent, key, kept, rank: gl.constexpr, rope: gl.constexpr, layout: gl.constexpr):
    """Zeros for what a page holds beyond the sequence: a weight of 0 does not silence a NaN."""
    for j in gl.static_range(rank // rope):
        columns = latent.slice(j * rope, rope, 1)
        columns.store(gl.where(kept[:, None], columns.load(layout), 0.0))
    key.store(gl.where(kept[:, None], key.load(layout), 0.0))
    fence_async_shared()


@gluon.jit(do_not_specialize=["scale", "q_len", "heads", "stride", "splits"])
def attend_latent(
    q, latents, keys, table, seq_lens, out, part_o, part_m, part_l, scale, q_len, heads, stride, splits,
    rank: gl.constexpr, rope: gl.constexpr, page: gl.constexpr, block_r: gl.constexpr, one_split: gl.constexpr,
    warps: gl.constexpr,
):  # fmt: skip
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, block_r, 16])
    wide: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [warps, 1], [1, 0])
    narrow: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [warps, 1], [1, 0])
    shared: gl.constexpr = gl.NVMMASharedLayout.get_default_for([page, block_r], gl.bfloat16)
    width: gl.constexpr = rank + rope
    split = gl.program_id(1)
    b = gl.program_id(2)
    tile = gl.program_id(0) * block_r
    rows = q_len * heads
    first = (b * rows).to(gl.int64)  # rows of a sequence lie within 32 bits of its first
    length = gl.load(seq_lens + b)
    share = gl.cdiv(gl.cdiv(length, page), splits)
    low = split * share
    count = gl.maximum(gl.minimum(gl.cdiv(length, page) - low, share), 0)
    pages = table + b * stride + low

    latent_mem = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, page, rank], latents.layout)
    key_mem = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, page, rope], keys.layout)
    ready = gl.allocate_shared_memory(gl.int64, [BUFFERS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(BUFFERS):
        mbarrier.init(ready.index(i), count=1)
    for i in gl.static_range(BUFFERS):
        number = gl.load(pages + i, mask=i < count, other=0)
        _fetch(
            latents, keys, number, ready.index(i), latent_mem.index(i), key_mem.index(i), i < count, page, rank, rope
        )
    row = tile + gl.arange(0, block_r, gl.SliceLayout(1, wide))
    q_latent = _queries(q + first * width, row, row < rows, 0, rank, width, wide)
    row = tile + gl.arange(0, block_r, gl.SliceLayout(1, narrow))
    q_rope = _queries(q + first * width, row, row < rows, rank, rope, width, narrow)
    weights = gl.allocate_shared_memory(gl.bfloat16, [page, block_r], shared)
    fence_async_shared()

    row = tile + gl.arange(0, block_r, gl.SliceLayout(0, mma))
    last = length - q_len + row // heads  # the newest token that the row's query may see
    m = gl.full([block_r], START, gl.float32, gl.SliceLayout(0, mma))
    total = gl.zeros([page, block_r], gl.float32, mma)  # summed over tokens in the end: that crosses warps
    acc = gl.zeros([rank, block_r], gl.float32, mma)
    for i in range(count):
        latent = latent_mem.index(i % BUFFERS)
        key = key_mem.index(i % BUFFERS)
        arrived = ready.index(i % BUFFERS)
        more = i + BUFFERS < count
        number = gl.load(pages + i + BUFFERS, mask=more, other=0)
        start = (low + i) * page
        mbarrier.wait(arrived, (i // BUFFERS) & 1)
        if start + page > length:
            _blank(latent, key, start + gl.arange(0, page, gl.SliceLayout(1, narrow)) < length, rank, rope, narrow)
        s = gl.zeros([page, block_r], gl.float32, mma)
        s = warpgroup_mma(latent, q_latent.permute((1, 0)), s, use_acc=False, is_async=True)
        s = warpgroup_mma(key, q_rope.permute((1, 0)), s, is_async=True)
        s = warpgroup_mma_wait(0, deps=[s]) * scale
        n = start + gl.arange(0, page, gl.SliceLayout(1, mma))
        s = gl.where((n[:, None] < length) & (n[:, None] <= last[None, :]), s, MASKED)
        m_new = gl.maximum(m, gl.max(s, 0))
        weight = gl.exp2(s - m_new[None, :])
        shrink = gl.exp2(m - m_new)
        total = total * shrink[None, :] + weight
        weights.store(weight.to(gl.bfloat16))
        fence_async_shared()
        acc = warpgroup_mma(latent.permute((1, 0)), weights, acc * shrink[None, :], is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        m = m_new
        barrier()  # every warp is through with the page
        _fetch(latents, keys, number, arrived, latent, key, more, page, rank, rope)
    for i in gl.static_range(BUFFERS):
        mbarrier.invalidate(ready.index(i))

    sums = gl.sum(total, 0)
    real = row < rows
    r = gl.arange(0, rank, gl.SliceLayout(1, mma))
    if one_split:
        acc = acc / gl.where(sums > 0, sums, 1.0)[None, :]
        to = out + first * rank
        gl.store(to + (row[None, :] * rank + r[:, None]), acc.to(gl.bfloat16), mask=real[None, :])
    else:
        place = row * splits + split
        to = part_o + first * splits * rank
        gl.store(to + (place[None, :] * rank + r[:, None]), acc, mask=real[None, :])
        gl.store(part_m + first * splits + place, m, mask=real)
        gl.store(part_l + first * splits + place, sums, mask=real)


def rows_a_program(rows: int) -> int:
    """Query rows that a program takes of a sequence's *rows*."""
    return min(MOST, max(FEWEST, power_of_2(rows)))


def launch(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    scale: float,
    out: Tensor,
    parts: Parts,
    splits: int,
) -> None:
    """As `latent_attention.attend`, with pages of 64 tokens; *scale* is in powers of two."""
    batch, q_len, heads, width = q.shape
    rank, page = out.shape[-1], cache.shape[1]
    block_r = rows_a_program(q_len * heads)
    attend_latent[(cdiv(q_len * heads, block_r), splits, batch)](
        q, _columns(cache, rank), _columns(cache, width - rank), block_table, seq_lens, out, *parts, scale, q_len,
        heads, block_table.stride(0), splits, rank, width - rank, page, block_r, splits == 1, WARPS, num_warps=WARPS,
    )  # fmt: skip


def _columns(cache: Tensor, columns: int) -> TensorDescriptor:
    """What TMA needs to know to fetch *columns* of a page."""
    tokens = cache.view(-1, cache.shape[2])
    box = [cache.shape[1], columns]
    return TensorDescriptor(tokens, list(tokens.shape), list(tokens.stride()), box, _layout(*box))


@lru_cache
def _layout(*box: int) -> Any:
    return gl.NVMMASharedLayout.get_default_for(list(box), gl.bfloat16)
