"""Router: top-k experts per token, and the list of GEMM tiles, each one expert's (token, slot) pairs.

Neither needs the host: the number of tiles has a bound known from the token count, spare tiles hold expert -1, so that
a CUDA graph captures both. When there are fewer pairs than experts no alignment kernel runs at all: the GEMMs find
their pairs in the ids themselves. Alignment is one program per expert, each scanning all ids: no atomics, so that the
order is the same every time.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._triton import cdiv, power_of_2


class Tiles(NamedTuple):
    """`expert` [tiles] (-1: empty) and `pairs` [tiles, block_m] of token * topk + slot (-1: no pair)."""

    expert: Tensor
    pairs: Tensor


def reference(logits: Tensor, topk: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    """Softmax over the experts of logits [T, E], the largest *topk*: weights [T, topk] float64 and ids."""
    weights, ids = logits.double().softmax(-1).topk(topk)
    return (weights / weights.sum(-1, keepdim=True) if renormalise else weights), ids


@triton.jit(do_not_specialize=["tokens"])
def _top_k(
    logits, weights, ids, tokens, experts, topk: tl.constexpr, renormalise: tl.constexpr, rows: tl.constexpr,
    block_e: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * rows + tl.arange(0, rows)
    e = tl.arange(0, block_e)
    slot = tl.arange(0, block_k)
    inside = (t < tokens)[:, None] & (e < experts)[None, :]
    x = tl.load(logits + t[:, None] * experts + e[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    x = tl.where((t < tokens)[:, None], x, 0.0)
    p = tl.exp(x - tl.max(x, 1)[:, None])
    total = tl.sum(p, 1)
    best_w = tl.zeros((rows, block_k), tl.float32)
    best_i = tl.zeros((rows, block_k), tl.int32)
    for j in tl.static_range(topk):
        top, arg = tl.max(p, 1, return_indices=True)
        best_w = tl.where(slot[None, :] == j, top[:, None], best_w)
        best_i = tl.where(slot[None, :] == j, arg[:, None], best_i)
        p = tl.where(e[None, :] == arg[:, None], -1.0, p)
    if renormalise:
        total = tl.sum(best_w, 1)
    at = t[:, None] * topk + slot[None, :]
    keep = (t < tokens)[:, None] & (slot < topk)[None, :]
    tl.store(weights + at, best_w / total[:, None], mask=keep)
    tl.store(ids + at, best_i, mask=keep)


def top_k(logits: Tensor, topk: int, renormalise: bool = True) -> tuple[Tensor, Tensor]:
    """Router weights [T, topk] fp32 and expert ids [T, topk] int32 of logits [T, E], largest first, ties to the lowest
    expert.
    """
    tokens, experts = logits.shape
    weights = torch.empty((tokens, topk), dtype=torch.float32, device=logits.device)
    ids = torch.empty((tokens, topk), dtype=torch.int32, device=logits.device)
    rows = 1 if tokens <= 2048 else 4
    _top_k[(cdiv(tokens, rows),)](
        logits, weights, ids, tokens, experts, topk, renormalise, rows, power_of_2(experts), power_of_2(topk),
        num_warps=rows,
    )  # fmt: skip
    return weights, ids


@triton.jit(do_not_specialize=["pairs", "tiles"])
def _align(
    ids, tile_expert, tile_pairs, pairs, tiles, block_m: tl.constexpr, one_tile: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    expert = tl.program_id(0)
    experts = tl.num_programs(0)
    j = tl.arange(0, block)
    first = expert
    last = expert + 1
    if not one_tile:
        # Tile lists of earlier experts cannot reach past expert + floor(earlier pairs / block_m), so nobody waits for
        # their tile counts.
        before = tl.zeros((block,), tl.int32)
        own = tl.zeros((block,), tl.int32)
        for start in range(0, pairs, block):
            at = tl.load(ids + start + j, mask=start + j < pairs, other=experts)
            before += (at < expert).to(tl.int32)
            own += (at == expert).to(tl.int32)
        earlier = tl.sum(before, 0)
        first = expert + earlier // block_m
        last = expert + 1 + (earlier + tl.sum(own, 0)) // block_m
        last = tl.where(expert == experts - 1, tiles, last)
    count = 0
    for start in range(0, pairs, block):
        mine = tl.load(ids + start + j, mask=start + j < pairs, other=experts) == expert
        rank = count + tl.cumsum(mine.to(tl.int32), 0) - 1
        tl.store(tile_pairs + first * block_m + rank, start + j, mask=mine)
        count += tl.sum(mine.to(tl.int32), 0)
    used = (count + block_m - 1) // block_m
    pad = count + tl.arange(0, block_m)
    tl.store(tile_pairs + first * block_m + pad, tl.full((block_m,), -1, tl.int32), mask=pad < used * block_m)
    for start in range(first, last, block_m):
        tile = start + tl.arange(0, block_m)
        tl.store(tile_expert + tile, tl.where(tile < first + used, expert, -1), mask=tile < last)


def tile_bound(pairs: int, experts: int, tokens: int, block_m: int) -> int:
    """Tiles that *pairs* can need whatever the routing: with block_m tokens or fewer, no expert needs two."""
    return experts if tokens <= block_m else experts + pairs // block_m


def align(ids: Tensor, experts: int, block_m: int) -> Tiles:
    """Group the (token, slot) pairs of ids [T, topk] by expert into tiles of *block_m*, in token order."""
    tokens, pairs = ids.shape[0], ids.numel()
    tiles = tile_bound(pairs, experts, tokens, block_m)
    out = Tiles(
        torch.empty((tiles,), dtype=torch.int32, device=ids.device),
        torch.empty((tiles, block_m), dtype=torch.int32, device=ids.device),
    )
    block = min(4096, max(128, power_of_2(pairs)))
    warps = 4 if block < 1024 else 8
    _align[(experts,)](ids, out.expert, out.pairs, pairs, tiles, block_m, tokens <= block_m, block, num_warps=warps)
    return out


def bytes_moved(tokens: int, experts: int, topk: int) -> int:
    """Logits read (bf16), ids and weights written and ids read again."""
    return tokens * (2 * experts + 12 * topk)


def flops(tokens: int, experts: int, topk: int) -> int:
    """Softmax and *topk* searches."""
    return tokens * experts * (3 + topk)


def distinct_experts(ids: Tensor) -> int:
    """How many experts the ids name (synchronises: for logs, never inside a graph)."""
    return int(torch.unique(ids).numel())


def uniform_distinct(tokens: int, experts: int, topk: int) -> int:
    """Expected distinct experts of independent uniform tokens, E (1 - (1 - k/E)^T), rounded."""
    return round(experts * (1 - (1 - topk / experts) ** tokens))


def inject_topk_ids(
    tokens: int,
    experts: int,
    topk: int,
    *,
    distinct: int | None = None,
    law: str = "uniform",
    alpha: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ids [T, topk] int32 that name exactly *distinct* experts (default: the uniform law's count; balanced: all that
    fit).

    Every token's experts differ. Laws: `balanced` deals the experts out in turn; `uniform` draws them after each was
    dealt once; `skewed` draws with weights 1 / rank^alpha.
    """
    full = min(experts, tokens * topk)
    if distinct is None:
        distinct = full if law == "balanced" else max(topk, uniform_distinct(tokens, experts, topk))
    if not topk <= distinct <= full:
        raise ValueError(f"{tokens} tokens x {topk} name between {topk} and {full} experts, not {distinct}")
    if law not in ("balanced", "uniform", "skewed"):
        raise ValueError(f"unknown law {law!r}; known: balanced, uniform, skewed")
    device = generator.device if generator is not None else torch.device("cpu")
    subset = torch.randperm(experts, generator=generator, device=device)[:distinct]
    dealt = torch.arange(tokens * topk, device=device).view(tokens, topk) % distinct
    if law != "balanced":
        rank = torch.arange(1, distinct + 1, device=device, dtype=torch.float32)
        weight = rank ** -(alpha if law == "skewed" else 0.0)
        noise = torch.rand((tokens, distinct), generator=generator, device=device).clamp_min(1e-9)
        drawn = (-noise.log() / weight).topk(topk, largest=False).indices  # an exponential race: no expert twice
        dealt = torch.where(torch.arange(tokens, device=device)[:, None] < cdiv(distinct, topk), dealt, drawn)
        dealt = dealt[torch.randperm(tokens, generator=generator, device=device)]
    return subset[dealt].to(torch.int32)


def inject_logits(ids: Tensor, experts: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Router logits [T, E] whose top-k are exactly *ids*, so that the real top-k kernel runs in a measurement."""
    logits = torch.rand((ids.shape[0], experts), device=ids.device)
    return logits.scatter_add_(1, ids.long(), 2 + torch.rand(ids.shape, device=ids.device)).to(dtype)
