"""What the kernels of latent attention on Hopper share: pages that come by TMA, queries, and what a program leaves.

Gluon, Triton's language of explicit layouts and barriers; it needs a GPU, so that the interpreter runs none of it.
"""

from functools import lru_cache
from typing import Any

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

BUFFERS = gl.constexpr(2)
WARPS = gl.constexpr(4)  # of a group that issues wgmma
fetch = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared  # as Triton calls it after 3.6
barrier = getattr(gl, "barrier", None) or gl.thread_barrier


@gluon.jit
def part_of(table, seq_lens, stride, splits, page: gl.constexpr):
    """A program's part of its sequence: the sequence's length, the part's first page, how many, where they stand."""
    b = gl.program_id(2)
    length = gl.load(seq_lens + b)
    share = gl.cdiv(gl.cdiv(length, page), splits)
    low = gl.program_id(1) * share
    count = gl.maximum(gl.minimum(gl.cdiv(length, page) - low, share), 0)
    return length, low, count, table + b * stride + low


@gluon.jit
def fetch_page(
    latents, keys, number, ready, latent, key, wanted, page: gl.constexpr, rank: gl.constexpr, rope: gl.constexpr
):
    """Start to copy a page's latents and rotary keys; *ready* completes when both are there."""
    mbarrier.expect(ready, page * (rank + rope) * 2, pred=wanted)
    fetch(latents, [number * page, 0], ready, latent, pred=wanted)
    fetch(keys, [number * page, rank], ready, key, pred=wanted)


@gluon.jit
def blank(latent, key, start, length, page: gl.constexpr, rank: gl.constexpr, rope: gl.constexpr):
    """Zeros for what a page holds beyond the sequence: a weight of 0 does not silence a NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [WARPS, 1], [1, 0])
    if start + page > length:
        kept = start + gl.arange(0, page, gl.SliceLayout(1, layout)) < length
        for j in gl.static_range(rank // rope):
            columns = latent.slice(j * rope, rope, 1)
            columns.store(gl.where(kept[:, None], columns.load(layout), 0.0))
        key.store(gl.where(kept[:, None], key.load(layout), 0.0))
        fence_async_shared()


@gluon.jit
def load_queries(q, tile, rows, block_r: gl.constexpr, start: gl.constexpr, columns: gl.constexpr, width: gl.constexpr):
    """Numbers *start* to start + columns of a program's queries, zeros beyond *rows*, in shared memory."""
    across: gl.constexpr = min(32, columns // 8)
    lanes: gl.constexpr = gl.BlockedLayout([1, 8], [32 // across, across], [WARPS, 1], [1, 0])
    row = tile + gl.arange(0, block_r, gl.SliceLayout(1, lanes))
    column = start + gl.arange(0, columns, gl.SliceLayout(0, lanes))
    found = gl.load(q + (row[:, None] * width + column[None, :]), mask=(row < rows)[:, None], other=0.0)
    shared: gl.constexpr = gl.NVMMASharedLayout.get_default_for([block_r, columns], gl.bfloat16)
    return gl.allocate_shared_memory(gl.bfloat16, [block_r, columns], shared, found)


@gluon.jit
def leave_latents(
    acc, sums, out, part_o, first, row, rows, split, splits, start: gl.constexpr, rank: gl.constexpr,
    one_split: gl.constexpr, mma: gl.constexpr,
):  # fmt: skip
    """Numbers *start* and on of the latents [numbers, rows]: divided by *sums*, or as one part of several."""
    r = start + gl.arange(0, acc.shape[0], gl.SliceLayout(1, mma))
    real = (row < rows)[None, :]
    if one_split:
        acc = acc / gl.where(sums > 0, sums, 1.0)[None, :]
        gl.store(out + first * rank + (row[None, :] * rank + r[:, None]), acc.to(gl.bfloat16), mask=real)
    else:
        place = row * splits + split
        gl.store(part_o + first * splits * rank + (place[None, :] * rank + r[:, None]), acc, mask=real)


@gluon.jit
def leave_totals(m, sums, part_m, part_l, first, row, rows, split, splits):
    """Maxima and sums [rows] of one part."""
    place = row * splits + split
    gl.store(part_m + first * splits + place, m, mask=row < rows)
    gl.store(part_l + first * splits + place, sums, mask=row < rows)


def columns_of(cache: Tensor, columns: int) -> TensorDescriptor:
    """What TMA needs to know to fetch *columns* of a page of cache [pages, page, width]."""
    tokens = cache.view(-1, cache.shape[2])
    box = [cache.shape[1], columns]
    return TensorDescriptor(tokens, list(tokens.shape), list(tokens.stride()), box, _layout(*box))


@lru_cache
def _layout(*box: int) -> Any:
    return gl.NVMMASharedLayout.get_default_for(list(box), gl.bfloat16)
