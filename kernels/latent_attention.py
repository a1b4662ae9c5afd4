"""Multi-head latent attention of q_len new tokens per sequence over a paged cache: decode and verification of DeepSeek
models (arXiv 2405.04434, section 2.1), absorbed: queries are projected into the latent, whose vectors are keys and
values of all heads at once.

A token stores rank + rope numbers: the latent, and behind it a rotary key that all heads share. A block of the cache is
read once for its scores and for the values. The kernel here runs on any GPU and in the interpreter, with tiles of 64 of
the q_len x heads query rows; on Hopper latent_hopper.py has a faster one.
"""

import math
from types import ModuleType

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._triton import SMS, UPCAST, cdiv
from kernels.splits import START, Walk, best_split, make_parts
from kernels.verify_attention import MASKED

PAGE = 64  # tokens: one page of a layer is contiguous
ROWS = 64  # of a tile: wgmma's M
PORTABLE = Walk(ROWS, 32, SMS, 2.2, 4.0)  # 32 tokens a step are 37 KB: with the queries' 74 KB three steps fit an SM
STAGES = 5  # three buffers: the block table is read a stage earlier
TRITON = tuple(int(word) for word in triton.__version__.split(".")[:2])


def reference(q: Tensor, cache: Tensor, block_table: Tensor, seq_lens: Tensor, rank: int, scale: float) -> Tensor:
    """float64 [B, q_len, heads, rank]; query i of a sequence sees seq_len - q_len + i + 1 tokens, or none: zeros."""
    batch, q_len, heads, _ = q.shape
    out = torch.zeros((batch, q_len, heads, rank), dtype=torch.float64, device=q.device)
    for b in range(batch):
        length = int(seq_lens[b])
        pages = block_table[b, : cdiv(length, cache.shape[1])].long()
        stored = cache[pages].flatten(0, 1)[:length].double()
        for i in range(max(0, q_len - length), q_len):
            seen = stored[: length - q_len + i + 1]
            out[b, i] = (scale * q[b, i].double() @ seen.T).softmax(-1) @ seen[:, :rank]
    return out


@triton.jit(do_not_specialize=["scale", "q_len", "heads", "stride", "splits"])
def _attend_latent(
    q, cache, table, seq_lens, out, part_o, part_m, part_l, scale, q_len, heads, stride, splits, rank: tl.constexpr,
    rope: tl.constexpr, page: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, one_split: tl.constexpr,
    upcast: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(1)
    b = tl.program_id(2)
    length = tl.load(seq_lens + b)
    row = tl.program_id(0) * block_m + tl.arange(0, block_m)
    real = row < q_len * heads
    first = (b * q_len * heads).to(tl.int64)  # rows of a sequence lie within 32 bits of its first
    r = tl.arange(0, rank)
    p = rank + tl.arange(0, rope)
    q_at = q + first * (rank + rope)
    q_row = row[:, None] * (rank + rope)
    q_latent = tl.load(q_at + (q_row + r[None, :]), mask=real[:, None], other=0.0)
    q_rope = tl.load(q_at + (q_row + p[None, :]), mask=real[:, None], other=0.0)
    if upcast:
        q_latent = q_latent.to(tl.float32)
        q_rope = q_rope.to(tl.float32)
    share = tl.cdiv(tl.cdiv(length, block_n), splits) * block_n
    low = split * share
    high = tl.minimum(low + share, length)
    last = length - q_len + row // heads  # the newest token that the row's query may see
    m = tl.full((block_m,), START, tl.float32)
    total = tl.zeros((block_m,), tl.float32)
    acc = tl.zeros((block_m, rank), tl.float32)
    for start in range(low, high, block_n):
        n = start + tl.arange(0, block_n)
        inside = n < high
        number = tl.load(table + b * stride + n // page, mask=inside, other=0)
        at = cache + (number.to(tl.int64) * page + n % page)[:, None] * (rank + rope)
        latent = tl.load(at + r[None, :], mask=inside[:, None], other=0.0)
        key = tl.load(at + p[None, :], mask=inside[:, None], other=0.0)
        if upcast:
            latent = latent.to(tl.float32)
            key = key.to(tl.float32)
        s = tl.dot(q_rope, tl.trans(key), tl.dot(q_latent, tl.trans(latent))) * scale
        s = tl.where(inside[None, :] & (n[None, :] <= last[:, None]), s, MASKED)
        m_new = tl.maximum(m, tl.max(s, 1))
        weight = tl.exp2(s - m_new[:, None])
        shrink = tl.exp2(m - m_new)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(latent.dtype), latent, acc * shrink[:, None])
        m = m_new
    if one_split:
        acc = acc / tl.where(total > 0, total, 1.0)[:, None]
        to = out + first * rank
        tl.store(to + (row[:, None] * rank + r[None, :]), acc.to(out.dtype.element_ty), mask=real[:, None])
    else:
        part = row * splits + split
        to = part_o + first * splits * rank
        tl.store(to + (part[:, None] * rank + r[None, :]), acc, mask=real[:, None])
        tl.store(part_m + first * splits + part, m, mask=real)
        tl.store(part_l + first * splits + part, total, mask=real)


def attend(
    q: Tensor, cache: Tensor, block_table: Tensor, seq_lens: Tensor, max_length: int, rank: int, scale: float,
    *, splits: int | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """q [B, q_len, heads, rank + rope], cache [pages, page, rank + rope] -> latents [B, q_len, heads, rank].

    block_table [B, n] and seq_lens [B] are int32; lengths count the q_len new tokens, which are in the cache already.
    *scale* is 1 / sqrt(nope + rope) of the model: the absorbed queries' width says nothing of it.
    """
    batch, q_len, heads, width = q.shape
    fast = _on_hopper(q, cache, rank)
    rows = q_len * heads
    walks = fast.walks(rows) if fast else (PORTABLE,)
    kv_bytes = batch * max_length * width * q.element_size()
    walk, best = best_split(walks, batch, rows, max_length, kv_bytes, batch * rows * rank)
    splits = splits or best
    out = q.new_empty((batch, q_len, heads, rank)) if out is None else out
    parts = make_parts(batch * rows, splits, rank, q.device)
    scale *= math.log2(math.e)
    if fast:
        fast.launch(q, cache, block_table, seq_lens, scale, out, parts, walk, splits)
    else:
        _attend_latent[(cdiv(rows, ROWS), splits, batch)](
            q, cache, block_table, seq_lens, out, *parts, scale, q_len, heads,
            block_table.stride(0), splits, rank, width - rank, cache.shape[1], ROWS, PORTABLE.tokens, splits == 1,
            UPCAST, num_warps=8, num_stages=STAGES,
        )  # fmt: skip
    if splits > 1:
        parts.combine(out, splits)
    return out


def _on_hopper(q: Tensor, cache: Tensor, rank: int) -> ModuleType | None:
    """The kernels for Hopper where they run: Triton 3.6, bf16, pages and a latent of which two fit shared memory."""
    width = q.shape[-1]
    fits = cache.shape[1] == PAGE and rank in (256, 512) and width - rank == 64 and q.dtype == torch.bfloat16
    if UPCAST or not fits or not q.is_cuda or torch.cuda.get_device_capability(q.device)[0] != 9 or TRITON < (3, 6):
        return None
    from kernels import latent_hopper

    return latent_hopper


def bytes_moved(context_lengths: list[int], q_len: int, heads: int, rank: int, rope: int) -> int:
    """The bf16 latents and keys of every context token once, queries in and latents out."""
    rows = len(context_lengths) * q_len * heads
    return 2 * (sum(context_lengths) * (rank + rope) + rows * (2 * rank + rope))


def flops(context_lengths: list[int], q_len: int, heads: int, rank: int, rope: int) -> int:
    """Scores and weighted latents of every query over its whole context (the causal corner is not taken off)."""
    return 2 * sum(context_lengths) * q_len * heads * (2 * rank + rope)
