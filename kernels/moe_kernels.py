"""The programs of a MoE layer; moe.py says what they compute together.

Weights are the M operand ("swap AB"), so that 16 tokens still lower to wgmma, whose M is 64. Where experts hold a
hundred tokens and more, the `_wide` programs take tokens as M and 256 weight rows as N: each byte from shared memory
then feeds twice the arithmetic.
"""

import triton
import triton.language as tl


@triton.jit
def _place(tiles, blocks, group: tl.constexpr):
    """This program's (tile, weight block): *group* tiles share each weight block while it is in L2."""
    pid = tl.program_id(0)
    first = pid // (group * blocks) * group
    size = tl.minimum(tiles - first, group)
    within = pid % (group * blocks)
    return first + within % size, within // size


@triton.jit
def _pairs_of(tile, ids, tile_expert, tile_pairs, pairs, block_m: tl.constexpr, block_p: tl.constexpr):
    """The tile's expert (-1: nothing to do) and pairs [block_m] (-1: none); block_p > 0 finds them in the ids."""
    row = tl.arange(0, block_m)
    if block_p == 0:
        expert = tl.load(tile_expert + tile)
        pair = tl.load(tile_pairs + tile * block_m + row)
    else:
        j = tl.arange(0, block_p)
        expert = tl.load(ids + tile)
        mine = tl.load(ids + j, mask=j < pairs, other=-1) == expert
        owner = tl.min(tl.where(mine, j, block_p), 0)  # the first pair that names an expert works for all of them
        rank = tl.cumsum(mine.to(tl.int32), 0) - 1
        pair = tl.max(tl.where(mine[None, :] & (rank[None, :] == row[:, None]), j[None, :], -1), 1)
        expert = tl.where(owner == tile, expert, -1)
    return expert, pair


@triton.jit(do_not_specialize=["tiles", "pairs", "topk"])
def gate_up_silu(
    x, w, y, ids, tile_expert, tile_pairs, tiles, pairs, topk, hidden, inter, block_m: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr, block_p: tl.constexpr, group: tl.constexpr, even: tl.constexpr,
    upcast: tl.constexpr,
):  # fmt: skip
    tile, block = _place(tiles, tl.cdiv(inter, block_n), group)
    expert, pair = _pairs_of(tile, ids, tile_expert, tile_pairs, pairs, block_m, block_p)
    if expert < 0:
        return
    real = pair >= 0
    token = tl.where(real, pair, 0) // topk
    n = block * block_n + tl.arange(0, block_n)
    k = tl.arange(0, block_k)
    x_at = x + token[None, :] * hidden + k[:, None]
    gate_at = w + expert.to(tl.int64) * 2 * inter * hidden + n[:, None] * hidden + k[None, :]
    up_at = gate_at + inter * hidden
    gate = tl.zeros((block_n, block_m), tl.float32)
    up = tl.zeros((block_n, block_m), tl.float32)
    for start in range(0, hidden, block_k):
        if even:
            xt = tl.load(x_at + start, mask=real[None, :], other=0.0)
            wg = tl.load(gate_at + start)
            wu = tl.load(up_at + start)
        else:
            inside = (n < inter)[:, None] & (start + k < hidden)[None, :]
            xt = tl.load(x_at + start, mask=real[None, :] & (start + k < hidden)[:, None], other=0.0)
            wg = tl.load(gate_at + start, mask=inside, other=0.0)
            wu = tl.load(up_at + start, mask=inside, other=0.0)
        if upcast:
            xt = xt.to(tl.float32)
            wg = wg.to(tl.float32)
            wu = wu.to(tl.float32)
        gate = tl.dot(wg, xt, gate)
        up = tl.dot(wu, xt, up)
    act = gate / (1.0 + tl.exp(-gate)) * up
    at = y + tl.where(real, pair, 0)[None, :].to(tl.int64) * inter + n[:, None]
    tl.store(at, act.to(y.dtype.element_ty), mask=real[None, :] & (n < inter)[:, None])


@triton.jit(do_not_specialize=["tiles", "pairs", "topk"])
def gate_up_silu_wide(
    x, w, y, ids, tile_expert, tile_pairs, tiles, pairs, topk, hidden, inter, block_m: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr, block_p: tl.constexpr, group: tl.constexpr, even: tl.constexpr,
    upcast: tl.constexpr,
):  # fmt: skip
    tile, block = _place(tiles, tl.cdiv(inter, block_n), group)
    expert, pair = _pairs_of(tile, ids, tile_expert, tile_pairs, pairs, block_m, block_p)
    if expert < 0:
        return
    real = pair >= 0
    token = tl.where(real, pair, 0) // topk
    j = tl.arange(0, 2 * block_n)  # gate rows, then up rows
    n = block * block_n + j % block_n
    k = tl.arange(0, block_k)
    x_at = x + token[:, None] * hidden + k[None, :]
    row = n + (j // block_n) * inter
    w_at = w + expert.to(tl.int64) * 2 * inter * hidden + row[None, :] * hidden + k[:, None]
    acc = tl.zeros((block_m, 2 * block_n), tl.float32)
    for start in range(0, hidden, block_k):
        if even:
            xt = tl.load(x_at + start, mask=real[:, None], other=0.0)
            wt = tl.load(w_at + start)
        else:
            xt = tl.load(x_at + start, mask=real[:, None] & (start + k < hidden)[None, :], other=0.0)
            wt = tl.load(w_at + start, mask=(n < inter)[None, :] & (start + k < hidden)[:, None], other=0.0)
        if upcast:
            xt = xt.to(tl.float32)
            wt = wt.to(tl.float32)
        acc = tl.dot(xt, wt, acc)
    gate, up = tl.split(tl.permute(tl.reshape(acc, (block_m, 2, block_n)), (0, 2, 1)))
    act = gate / (1.0 + tl.exp(-gate)) * up
    n = block * block_n + tl.arange(0, block_n)
    at = y + tl.where(real, pair, 0)[:, None].to(tl.int64) * inter + n[None, :]
    tl.store(at, act.to(y.dtype.element_ty), mask=real[:, None] & (n < inter)[None, :])


@triton.jit(do_not_specialize=["tiles", "pairs"])
def down_wide(
    y, w, weights, part, ids, tile_expert, tile_pairs, tiles, pairs, hidden, inter, block_m: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr, block_p: tl.constexpr, group: tl.constexpr, even: tl.constexpr,
    upcast: tl.constexpr,
):  # fmt: skip
    tile, block = _place(tiles, tl.cdiv(hidden, block_n), group)
    expert, pair = _pairs_of(tile, ids, tile_expert, tile_pairs, pairs, block_m, block_p)
    if expert < 0:
        return
    real = pair >= 0
    row = tl.where(real, pair, 0).to(tl.int64)
    n = block * block_n + tl.arange(0, block_n)
    k = tl.arange(0, block_k)
    y_at = y + row[:, None] * inter + k[None, :]
    w_at = w + expert.to(tl.int64) * hidden * inter + n[None, :] * inter + k[:, None]
    acc = tl.zeros((block_m, block_n), tl.float32)
    for start in range(0, inter, block_k):
        if even:
            yt = tl.load(y_at + start, mask=real[:, None], other=0.0)
            wd = tl.load(w_at + start)
        else:
            yt = tl.load(y_at + start, mask=real[:, None] & (start + k < inter)[None, :], other=0.0)
            wd = tl.load(w_at + start, mask=(n < hidden)[None, :] & (start + k < inter)[:, None], other=0.0)
        if upcast:
            yt = yt.to(tl.float32)
            wd = wd.to(tl.float32)
        acc = tl.dot(yt, wd, acc)
    acc *= tl.load(weights + row, mask=real, other=0.0)[:, None]
    at = part + row[:, None] * hidden + n[None, :]
    tl.store(at, acc.to(part.dtype.element_ty), mask=real[:, None] & (n < hidden)[None, :])


@triton.jit(do_not_specialize=["tiles", "pairs"])
def down(
    y, w, weights, part, ids, tile_expert, tile_pairs, tiles, pairs, hidden, inter, block_m: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr, block_p: tl.constexpr, group: tl.constexpr, even: tl.constexpr,
    upcast: tl.constexpr,
):  # fmt: skip
    tile, block = _place(tiles, tl.cdiv(hidden, block_n), group)
    expert, pair = _pairs_of(tile, ids, tile_expert, tile_pairs, pairs, block_m, block_p)
    if expert < 0:
        return
    real = pair >= 0
    row = tl.where(real, pair, 0).to(tl.int64)
    n = block * block_n + tl.arange(0, block_n)
    k = tl.arange(0, block_k)
    y_at = y + row[None, :] * inter + k[:, None]
    w_at = w + expert.to(tl.int64) * hidden * inter + n[:, None] * inter + k[None, :]
    acc = tl.zeros((block_n, block_m), tl.float32)
    for start in range(0, inter, block_k):
        if even:
            yt = tl.load(y_at + start, mask=real[None, :], other=0.0)
            wd = tl.load(w_at + start)
        else:
            yt = tl.load(y_at + start, mask=real[None, :] & (start + k < inter)[:, None], other=0.0)
            wd = tl.load(w_at + start, mask=(n < hidden)[:, None] & (start + k < inter)[None, :], other=0.0)
        if upcast:
            yt = yt.to(tl.float32)
            wd = wd.to(tl.float32)
        acc = tl.dot(wd, yt, acc)
    acc *= tl.load(weights + row, mask=real, other=0.0)[None, :]
    at = part + row[None, :] * hidden + n[:, None]
    tl.store(at, acc.to(part.dtype.element_ty), mask=real[None, :] & (n < hidden)[:, None])


@triton.jit
def combine(
    part, shared, shared_gate, out, hidden, topk: tl.constexpr, block_k: tl.constexpr, block: tl.constexpr,
    has_shared: tl.constexpr, has_gate: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * block + tl.arange(0, block)
    slot = tl.arange(0, block_k)
    inside = (slot < topk)[:, None] & (n < hidden)[None, :]
    rows = tl.load(part + (t * topk + slot)[:, None] * hidden + n[None, :], mask=inside, other=0.0)
    total = tl.sum(rows.to(tl.float32), 0)
    if has_shared:
        extra = tl.load(shared + t * hidden + n, mask=n < hidden, other=0.0).to(tl.float32)
        if has_gate:
            extra *= 1.0 / (1.0 + tl.exp(-tl.load(shared_gate + t).to(tl.float32)))
        total += extra
    tl.store(out + t * hidden + n, total.to(out.dtype.element_ty), mask=n < hidden)
