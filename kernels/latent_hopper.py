"""Latent attention on Hopper of few query rows: tokens, not query rows, are wgmma's M, and pages come by TMA.

Up to 32 query rows of a sequence are wgmma's N, so that a decode step of 16 heads computes no empty rows, and its
accumulator leaves registers for the rest: scores [page, rows] = page x queries^T, then latents [rank, rows] += page^T x
weights, both from the same page in shared memory. Two pages are in flight: the one after next is fetched as soon as a
page is done with. Gluon, since Triton's own pipeline would need a third buffer for that, which does not fit.

On an H200 with 16 heads and one query: 7.2 us for 1 x 1k tokens, 14.9 for 16 x 1k, 28.5 for 64 x 1k, 29.1 for 16 x 4k,
80.6 for 64 x 4k (3.75 TB/s), 281 for 256 x 4k (4.31 TB/s). latent_wide.py takes 64 rows at a time.
docs/kernel-notes.md has the steps on the way.
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels import latent_wide
from kernels._triton import SMS, cdiv
from kernels.latent_pages import (
    BUFFERS,
    WARPS,
    barrier,
    blank,
    columns_of,
    fetch_page,
    leave_latents,
    leave_totals,
    load_queries,
    part_of,
)
from kernels.splits import START, Parts, Walk
from kernels.verify_attention import MASKED

WALKS = (Walk(16, 64, SMS, 1.4, 3.0), Walk(32, 64, SMS, 1.9, 3.0), latent_wide.WALK)


@gluon.jit(do_not_specialize=["scale", "q_len", "heads", "stride", "splits"])
def attend_latent(
    q, latents, keys, table, seq_lens, out, part_o, part_m, part_l, scale, q_len, heads, stride, splits,
    rank: gl.constexpr, rope: gl.constexpr, page: gl.constexpr, block_r: gl.constexpr, one_split: gl.constexpr,
):  # fmt: skip
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, block_r, 16])
    shared: gl.constexpr = gl.NVMMASharedLayout.get_default_for([page, block_r], gl.bfloat16)
    width: gl.constexpr = rank + rope
    split = gl.program_id(1)
    tile = gl.program_id(0) * block_r
    rows = q_len * heads
    first = (gl.program_id(2) * rows).to(gl.int64)  # rows of a sequence lie within 32 bits of its first
    length, low, count, pages = part_of(table, seq_lens, stride, splits, page)

    latent_mem = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, page, rank], latents.layout)
    key_mem = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, page, rope], keys.layout)
    ready = gl.allocate_shared_memory(gl.int64, [BUFFERS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(BUFFERS):
        mbarrier.init(ready.index(i), count=1)
    for i in gl.static_range(BUFFERS):
        number = gl.load(pages + i, mask=i < count, other=0)
        fetch_page(
            latents, keys, number, ready.index(i), latent_mem.index(i), key_mem.index(i), i < count, page, rank, rope
        )
    q_latent = load_queries(q + first * width, tile, rows, block_r, 0, rank, width)
    q_rope = load_queries(q + first * width, tile, rows, block_r, rank, rope, width)
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
        blank(latent, key, start, length, page, rank, rope)
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
        fetch_page(latents, keys, number, arrived, latent, key, more, page, rank, rope)
    for i in gl.static_range(BUFFERS):
        mbarrier.invalidate(ready.index(i))

    sums = gl.sum(total, 0)
    leave_latents(acc, sums, out, part_o, first, row, rows, split, splits, 0, rank, one_split, mma)
    if not one_split:
        leave_totals(m, sums, part_m, part_l, first, row, rows, split, splits)


def walks(rows: int) -> tuple[Walk, ...]:
    """What may be fastest for a sequence's query *rows*: the least that holds them, and what walks less beyond 32."""
    return WALKS[:1] if rows <= 16 else WALKS[1:2] if rows <= 32 else WALKS[1:]


def launch(
    q: Tensor,
    cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    scale: float,
    out: Tensor,
    parts: Parts,
    walk: Walk,
    splits: int,
) -> None:
    """As `latent_attention.attend`, with pages of 64 tokens; *scale* is in powers of two."""
    batch, q_len, heads, width = q.shape
    rank, page = out.shape[-1], cache.shape[1]
    kernel = latent_wide.attend_wide if walk == latent_wide.WALK else attend_latent
    kernel[(cdiv(q_len * heads, walk.rows), splits, batch)](
        q, columns_of(cache, rank), columns_of(cache, width - rank), block_table, seq_lens, out, *parts, scale, q_len,
        heads, block_table.stride(0), splits, rank, width - rank, page, walk.rows, splits == 1, num_warps=WARPS.value,
    )  # fmt: skip
