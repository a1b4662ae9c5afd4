"""Latent attention on Hopper of 64 query rows a program: verification, and decode of many heads.

With 32 rows as N a wgmma takes as long as with 64, so a tile has 64, and two groups of warps share its latents, whose
128 KB of sums one group cannot hold. The leading group scores a page, [rows, page] = queries x page^T, and weighs it;
then it sums the first quarter of the latent's numbers, [numbers, rows] += page^T x weights^T, and the following group
the rest, while the leading one scores the next page already. A warp of its own fetches pages.

On an H200 with 128 heads: 142 us for 64 x 4k tokens and one query (513 TFLOP/s), 393 with three (558).
docs/kernel-notes.md has the steps on the way.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels._triton import SMS
from kernels.latent_pages import (
    BUFFERS,
    WARPS,
    barrier,
    blank,
    fetch_page,
    leave_latents,
    leave_totals,
    load_queries,
    part_of,
)
from kernels.splits import START, Walk

NEVER = gl.constexpr(float("-inf"))  # times the scale it stays what it is, and exp2 of it is 0
MANY, FEW = gl.constexpr(240), gl.constexpr(24)  # registers of a group, and of the warp that fetches
WALK = Walk(64, 64, SMS, 1.85, 9.4)


@gluon.jit
def _score(q_latent, q_rope, latent, key, page: gl.constexpr, rows: gl.constexpr, scored: gl.constexpr):
    s = gl.zeros([rows, page], gl.float32, scored)
    s = warpgroup_mma(q_latent, latent.permute((1, 0)), s, use_acc=False, is_async=True)
    return warpgroup_mma(q_rope, key.permute((1, 0)), s, is_async=True)


@gluon.jit
def _lead(
    latent_mem, key_mem, ready, free, given, taken, q_latent, q_rope, weights, factors, out, part_o, part_m, part_l,
    length, low, count, first, tile, split, splits, rows, q_len, heads, scale, rank: gl.constexpr, rope: gl.constexpr,
    page: gl.constexpr, block_r: gl.constexpr, one_split: gl.constexpr,
):  # fmt: skip
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, block_r, 16])
    scored: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, page, 16])
    part: gl.constexpr = rank // 4
    row = tile + gl.arange(0, block_r, gl.SliceLayout(1, scored))
    last = length - q_len + row // heads  # the newest token that the row's query may see
    m = gl.full([block_r], START, gl.float32, gl.SliceLayout(1, scored))
    total = gl.zeros([block_r], gl.float32, gl.SliceLayout(1, scored))
    acc = gl.zeros([part, block_r], gl.float32, mma)
    if count > 0:
        mbarrier.wait(ready.index(0), 0)
        blank(latent_mem.index(0), key_mem.index(0), low * page, length, page, rank, rope)
        s = _score(q_latent, q_rope, latent_mem.index(0), key_mem.index(0), page, block_r, scored)
        s = warpgroup_mma_wait(0, deps=[s])
        for i in range(count):
            start = (low + i) * page
            if start + page > length - q_len + 1:  # some query may not see some token
                n = start + gl.arange(0, page, gl.SliceLayout(0, scored))
                s = gl.where((n[None, :] < length) & (n[None, :] <= last[:, None]), s, NEVER)
            m_new = gl.maximum(m, gl.max(s, 1) * scale)
            weight = gl.exp2(s * scale - m_new[:, None])
            shrink = gl.exp2(m - m_new)
            m = m_new
            total = total * shrink + gl.sum(weight, 1)
            mbarrier.wait(taken, (i & 1) ^ 1)
            weights.store(weight.to(gl.bfloat16))
            factors.store(shrink)
            fence_async_shared()
            barrier()
            mbarrier.arrive(given)
            latent = latent_mem.index(i % BUFFERS)
            acc = acc * factors.load(gl.SliceLayout(0, mma))[None, :]
            acc = warpgroup_mma(latent.slice(0, part, 1).permute((1, 0)), weights.permute((1, 0)), acc, is_async=True)
            # After the last page this scores a stale one, which nobody reads: a branch would end the product above.
            after = (i + 1) % BUFFERS
            if i + 1 < count:
                mbarrier.wait(ready.index(after), ((i + 1) // BUFFERS) & 1)
                blank(latent_mem.index(after), key_mem.index(after), start + page, length, page, rank, rope)
            following = _score(q_latent, q_rope, latent_mem.index(after), key_mem.index(after), page, block_r, scored)
            acc = warpgroup_mma_wait(2, deps=[acc])
            barrier()
            mbarrier.arrive(free.index(i % BUFFERS))
            s = warpgroup_mma_wait(0, deps=[following])
    mbarrier.wait(taken, (count & 1) ^ 1)
    factors.store(total)
    if not one_split:
        leave_totals(m, total, part_m, part_l, first, row, rows, split, splits)
    barrier()
    mbarrier.arrive(given)
    sums = factors.load(gl.SliceLayout(0, mma))
    row = tile + gl.arange(0, block_r, gl.SliceLayout(0, mma))
    leave_latents(acc, sums, out, part_o, first, row, rows, split, splits, 0, rank, one_split, mma)


@gluon.jit
def _follow(
    latent_mem, free, given, taken, weights, factors, out, part_o, count, first, tile, split, splits, rows,
    rank: gl.constexpr, block_r: gl.constexpr, one_split: gl.constexpr,
):  # fmt: skip
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, block_r, 16])
    half: gl.constexpr = rank // 2
    part: gl.constexpr = rank // 4
    row = tile + gl.arange(0, block_r, gl.SliceLayout(0, mma))
    second = gl.zeros([part, block_r], gl.float32, mma)
    rest = gl.zeros([half, block_r], gl.float32, mma)
    for i in range(count):
        mbarrier.wait(given, i & 1)
        shrink = factors.load(gl.SliceLayout(0, mma))
        latent = latent_mem.index(i % BUFFERS)
        w = weights.permute((1, 0))
        second = second * shrink[None, :]
        rest = rest * shrink[None, :]
        second = warpgroup_mma(latent.slice(part, part, 1).permute((1, 0)), w, second, is_async=True)
        rest = warpgroup_mma(latent.slice(half, half, 1).permute((1, 0)), w, rest, is_async=True)
        second, rest = warpgroup_mma_wait(0, deps=[second, rest])
        barrier()
        mbarrier.arrive(taken)
        mbarrier.arrive(free.index(i % BUFFERS))
    mbarrier.wait(given, count & 1)
    sums = factors.load(gl.SliceLayout(0, mma))
    leave_latents(second, sums, out, part_o, first, row, rows, split, splits, part, rank, one_split, mma)
    leave_latents(rest, sums, out, part_o, first, row, rows, split, splits, half, rank, one_split, mma)


@gluon.jit
def _fetch_all(
    latents, keys, pages, latent_mem, key_mem, ready, free, count, page: gl.constexpr, rank: gl.constexpr,
    rope: gl.constexpr,
):  # fmt: skip
    for i in range(count):
        number = gl.load(pages + i)
        b = i % BUFFERS
        mbarrier.wait(free.index(b), ((i // BUFFERS) & 1) ^ 1)
        fetch_page(latents, keys, number, ready.index(b), latent_mem.index(b), key_mem.index(b), True, page, rank, rope)


@gluon.jit(do_not_specialize=["scale", "q_len", "heads", "stride", "splits"])
def attend_wide(
    q, latents, keys, table, seq_lens, out, part_o, part_m, part_l, scale, q_len, heads, stride, splits,
    rank: gl.constexpr, rope: gl.constexpr, page: gl.constexpr, block_r: gl.constexpr, one_split: gl.constexpr,
):  # fmt: skip
    width: gl.constexpr = rank + rope
    split = gl.program_id(1)
    tile = gl.program_id(0) * block_r
    rows = q_len * heads
    first = (gl.program_id(2) * rows).to(gl.int64)  # rows of a sequence lie within 32 bits of its first
    length, low, count, pages = part_of(table, seq_lens, stride, splits, page)

    latent_mem = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, page, rank], latents.layout)
    key_mem = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, page, rope], keys.layout)
    weights_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([block_r, page], gl.bfloat16)
    weights = gl.allocate_shared_memory(gl.bfloat16, [block_r, page], weights_layout)
    factors = gl.allocate_shared_memory(gl.float32, [block_r], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    ready = gl.allocate_shared_memory(gl.int64, [BUFFERS, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [BUFFERS, 1], mbarrier.MBarrierLayout())
    given = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())  # weights and factors of a page
    taken = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())  # by the following group
    for i in gl.static_range(BUFFERS):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(free.index(i), count=2)
    mbarrier.init(given, count=1)
    mbarrier.init(taken, count=1)
    q_latent = load_queries(q + first * width, tile, rows, block_r, 0, rank, width)
    q_rope = load_queries(q + first * width, tile, rows, block_r, rank, rope, width)
    fence_async_shared()
    gl.warp_specialize(  # tuples in place: a name would turn their constants into values
        [
            (_lead, (
                latent_mem, key_mem, ready, free, given, taken, q_latent, q_rope, weights, factors, out, part_o, part_m,
                part_l, length, low, count, first, tile, split, splits, rows, q_len, heads, scale, rank, rope, page,
                block_r, one_split,
            )),
            (_follow, (
                latent_mem, free, given, taken, weights, factors, out, part_o, count, first, tile, split, splits, rows,
                rank, block_r, one_split,
            )),
            (_fetch_all, (latents, keys, pages, latent_mem, key_mem, ready, free, count, page, rank, rope)),
        ],
        [WARPS, 1], [MANY, FEW],
    )  # fmt: skip
