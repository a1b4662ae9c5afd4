"""Chunked prefill: causal attention of a chunk of one prompt over its context, through torch's
scaled_dot_product_attention.

The library's kernel (FlashAttention) takes contiguous keys and values, not pages: `attend_pages` gathers them first,
one read and write of the cache beside the chunk's products. Engines' prefill kernels read pages themselves, at about
the same rate, since a page of one head is a contiguous 4 KB.
"""

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from kernels._triton import cdiv


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """float64: q [heads, chunk, D], k and v [kv_heads, context + chunk, D]; query i sees context + i + 1 tokens."""
    heads, chunk, dim = q.shape
    length = k.shape[1]
    k, v = (x.double().repeat_interleave(heads // x.shape[0], dim=0) for x in (k, v))
    score = q.double() @ k.transpose(1, 2) / dim**0.5
    visible = torch.arange(length, device=q.device)[None, :] <= (
        length - chunk + torch.arange(chunk, device=q.device)[:, None]
    )
    out: Tensor = score.masked_fill(~visible, float("-inf")).softmax(-1) @ v
    return out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [heads, chunk, D], k and v [kv_heads, context + chunk, D] -> [heads, chunk, D]."""
    mask = causal_lower_right(q.shape[1], k.shape[1])
    return scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, enable_gqa=True)[0]


def attend_pages(q: Tensor, k_cache: Tensor, v_cache: Tensor, pages: Tensor, length: int) -> Tensor:
    """q [chunk, heads, D] -> the same: the chunk ends *length* tokens, which caches [P, kv, 16, D] hold in *pages*."""
    used = pages[: cdiv(length, k_cache.shape[2])]
    k, v = (c.transpose(0, 1).index_select(1, used).flatten(1, 2)[:, :length] for c in (k_cache, v_cache))
    return attend(q.transpose(0, 1), k, v).transpose(0, 1)


def bytes_moved(context: int, chunk: int, heads: int, kv_heads: int, head_dim: int, itemsize: int = 2) -> int:
    """Keys and values of context and chunk once, queries in and outputs out."""
    return itemsize * head_dim * (2 * (context + chunk) * kv_heads + 2 * chunk * heads)


def flops(context: int, chunk: int, heads: int, head_dim: int) -> int:
    """Scores and weighted values of the visible pairs: chunk x context, and the causal half of chunk x chunk."""
    return 4 * heads * head_dim * (chunk * context + chunk * (chunk + 1) // 2)
