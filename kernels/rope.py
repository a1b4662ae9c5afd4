"""Query and key norms where the model has them, rotary embedding, and the write to the paged cache: one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._triton import cdiv


def rope_reference(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Rotate the two halves of x [..., T, heads, D] by the position's angles, in float64."""
    half = x.shape[-1] // 2
    inverse = base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = positions.double()[..., None, None] * inverse
    a, b = x.double().chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def rope_table(length: int, head_dim: int, base: float, device: torch.device | str) -> Tensor:
    """Cosines and sines [length, 2, D / 2] fp32."""
    half = head_dim // 2
    inverse = base ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angle = torch.arange(length, dtype=torch.float64, device=device)[:, None] * inverse
    return torch.stack([angle.cos(), angle.sin()], dim=1).float()


@triton.jit(do_not_specialize=["q_len", "heads", "kv_heads", "stride"])
def _rope_and_cache(
    qkv, angles, block_table, seq_lens, q_norm, k_norm, q, k_cache, v_cache, q_len, heads, kv_heads, stride, eps,
    dim: tl.constexpr, page: tl.constexpr, block_h: tl.constexpr, normed: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0)
    b = t // q_len
    position = tl.load(seq_lens + b) - q_len + t % q_len
    h = tl.program_id(1) * block_h + tl.arange(0, block_h)
    i = tl.arange(0, dim // 2)
    total = heads + 2 * kv_heads
    at = (t.to(tl.int64) * total + h)[:, None] * dim + i[None, :]
    inside = (h < total)[:, None]
    lo = tl.load(qkv + at, mask=inside, other=0.0).to(tl.float32)
    hi = tl.load(qkv + at + dim // 2, mask=inside, other=0.0).to(tl.float32)
    if normed:
        scale = tl.rsqrt((tl.sum(lo * lo, 1) + tl.sum(hi * hi, 1)) / dim + eps)
        scale = tl.where(h < heads + kv_heads, scale, 1.0)[:, None]
        is_q = (h < heads)[:, None]
        rotated = (h < heads + kv_heads)[:, None]
        w_lo = tl.where(is_q, tl.load(q_norm + i).to(tl.float32)[None, :], tl.load(k_norm + i).to(tl.float32)[None, :])
        w_hi = tl.where(
            is_q,
            tl.load(q_norm + dim // 2 + i).to(tl.float32)[None, :],
            tl.load(k_norm + dim // 2 + i).to(tl.float32)[None, :],
        )
        lo *= scale * tl.where(rotated, w_lo, 1.0)
        hi *= scale * tl.where(rotated, w_hi, 1.0)
    place = tl.maximum(position, 0)  # a sequence shorter than q_len: its first rows are padding, never cached
    cos = tl.load(angles + place * dim + i)[None, :]
    sin = tl.load(angles + place * dim + dim // 2 + i)[None, :]
    first = lo * cos - hi * sin
    second = hi * cos + lo * sin
    to_q = q + (t.to(tl.int64) * heads + h)[:, None] * dim + i[None, :]
    tl.store(to_q, first.to(q.dtype.element_ty), mask=(h < heads)[:, None])
    tl.store(to_q + dim // 2, second.to(q.dtype.element_ty), mask=(h < heads)[:, None])
    number = tl.load(block_table + b * stride + place // page).to(tl.int64)
    end_k = tl.where(position >= 0, heads + kv_heads, 0)
    end_v = tl.where(position >= 0, total, 0)
    is_k = (h >= heads) & (h < end_k)
    is_v = (h >= heads + kv_heads) & (h < end_v)
    kv_head = tl.where(is_k, h - heads, h - heads - kv_heads)
    slot = ((number * kv_heads + kv_head) * page + place % page)[:, None] * dim + i[None, :]
    tl.store(k_cache + slot, first.to(k_cache.dtype.element_ty), mask=is_k[:, None])
    tl.store(k_cache + slot + dim // 2, second.to(k_cache.dtype.element_ty), mask=is_k[:, None])
    tl.store(v_cache + slot, lo.to(v_cache.dtype.element_ty), mask=is_v[:, None])
    tl.store(v_cache + slot + dim // 2, hi.to(v_cache.dtype.element_ty), mask=is_v[:, None])


def rope_and_cache(
    qkv: Tensor, angles: Tensor, block_table: Tensor, seq_lens: Tensor, k_cache: Tensor, v_cache: Tensor, q_len: int,
    heads: int, norms: tuple[Tensor, Tensor] | None = None, eps: float = 1e-6,
) -> Tensor:  # fmt: skip
    """Rotate the queries and keys of qkv [B * q_len, (heads + 2 kv) D] at their positions seq_len - q_len + i.

    Returns the queries [B, q_len, heads, D] and writes keys and values to the caches [pages, kv, 16, D]. *norms* are
    the weights [D] of the query and key RMS norms of models that have them.
    """
    kv_heads, page, dim = k_cache.shape[1:]
    tokens, total = qkv.shape[0], heads + 2 * kv_heads
    q = torch.empty((tokens // q_len, q_len, heads, dim), dtype=qkv.dtype, device=qkv.device)
    q_norm, k_norm = norms or (qkv, qkv)
    _rope_and_cache[(tokens, cdiv(total, 8))](
        qkv, angles, block_table, seq_lens, q_norm, k_norm, q, k_cache, v_cache, q_len, heads, kv_heads,
        block_table.stride(0), eps, dim, page, 8, norms is not None, num_warps=2,
    )  # fmt: skip
    return q


def rope_bytes(tokens: int, heads: int, kv_heads: int, head_dim: int, itemsize: int = 2) -> int:
    """Query, key and value in and out once."""
    return itemsize * 2 * tokens * (heads + 2 * kv_heads) * head_dim
