"""MoE layer: fused gate+up+SiLU grouped GEMM, down GEMM scaled by the router weight, sum over the chosen experts.

Weights are the M operand ("swap AB"): 16 tokens still lower to wgmma, whose M is 64. A tile holds one expert's tokens,
so that a block of weights is read from memory once however many tokens chose it; further tiles of a hot expert run next
to it and hit L2.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels import configs, moe_kernels, quantized
from kernels._triton import UPCAST, cdiv, power_of_2
from kernels.formats import Format, Quantized, dequantize
from kernels.routing import Tiles, align, top_k

Experts = Tensor | Quantized  # gate and up rows [E, 2, I, H], or [E, 2I, H] in bf16; down rows [E, H, I]


def reference(x: Tensor, gate_up: Experts, down: Experts, weights: Tensor, ids: Tensor) -> Tensor:
    """x [T, H], gate_up and down as in Experts, weights and ids [T, k] -> [T, H], all in float64; activations are
    never quantised.
    """
    out = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    for expert in torch.unique(ids).tolist():
        token, slot = (ids == expert).nonzero(as_tuple=True)
        both, last = (dequantize(_one(w, expert)).flatten(0, -2) for w in (gate_up, down))
        gate, up = (x[token].double() @ both.T).chunk(2, dim=-1)
        y = (torch.nn.functional.silu(gate) * up) @ last.T
        out.index_add_(0, token, y * weights[token, slot].double()[:, None])
    return out


def _one(w: Experts, expert: int) -> Experts:
    return w[expert] if isinstance(w, Tensor) else Quantized(w.data[expert], w.scales[expert])


def tiles_for(ids: Tensor, experts: int, block_m: int) -> tuple[Tiles | None, int, int]:
    """(tile list or None, number of tiles, block_p): with fewer pairs than experts the GEMMs align by themselves."""
    tokens, pairs = ids.shape[0], ids.numel()
    if pairs < experts and tokens <= block_m:
        return None, pairs, power_of_2(experts)
    tiles = align(ids, experts, block_m)
    return tiles, tiles.expert.numel(), 0


def key_of(down: Experts, topk: int) -> configs.MoeKey:
    """What names the layer in the table of configurations."""
    if isinstance(down, Tensor):
        return configs.MoeKey(down.shape[0], topk, down.shape[1], down.shape[2])
    return configs.MoeKey(down.data.shape[0], topk, down.outputs, down.inputs, down.format)


def gate_up_silu(
    x: Tensor, w: Tensor, ids: Tensor, tiles: tuple[Tiles | None, int, int], config: configs.Gemm
) -> Tensor:
    """silu(x Wg) * (x Wu) for every (token, slot): x [T, H], w [E, 2I, H] -> [T * k, I]."""
    hidden, inter = x.shape[1], w.shape[1] // 2
    y = torch.empty((ids.numel(), inter), dtype=x.dtype, device=x.device)
    found, count, block_p = tiles
    expert, pairs = found or (ids, ids)
    even = hidden % config.block_k == 0 and inter % config.block_n == 0
    kernel = moe_kernels.gate_up_silu_wide if config.wide else moe_kernels.gate_up_silu
    kernel[(count * cdiv(inter, config.block_n),)](
        x,
        w,
        y,
        ids,
        expert,
        pairs,
        count,
        ids.numel(),
        ids.shape[1],
        hidden,
        inter,
        config.block_m,
        config.block_n,
        config.block_k,
        block_p,
        config.group,
        even,
        UPCAST,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return y


def down_weighted(
    y: Tensor, w: Tensor, weights: Tensor, ids: Tensor, tiles: tuple[Tiles | None, int, int], config: configs.Gemm
) -> Tensor:
    """Router weight times y Wd for every (token, slot): y [T * k, I], w [E, H, I] -> [T * k, H]."""
    hidden, inter = w.shape[1], w.shape[2]
    part = torch.empty((ids.numel(), hidden), dtype=y.dtype, device=y.device)
    found, count, block_p = tiles
    expert, pairs = found or (ids, ids)
    even = inter % config.block_k == 0 and hidden % config.block_n == 0
    kernel = moe_kernels.down_wide if config.wide else moe_kernels.down
    kernel[(count * cdiv(hidden, config.block_n),)](
        y,
        w,
        weights,
        part,
        ids,
        expert,
        pairs,
        count,
        ids.numel(),
        hidden,
        inter,
        config.block_m,
        config.block_n,
        config.block_k,
        block_p,
        config.group,
        even,
        UPCAST,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return part


def gemms(weights: Format) -> tuple[Callable[..., Any], Callable[..., Tensor]]:
    """The launches of a format: gate and up with SiLU, whose result the second takes, and down."""
    if weights == "bf16":
        return gate_up_silu, down_weighted
    return quantized.gate_up_silu, quantized.down_weighted


def combine(part: Tensor, topk: int, out: Tensor, shared: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
    """Sum part [T * k, H] over the slots, plus the shared expert's output scaled by the sigmoid of its *gate* [T]."""
    hidden = part.shape[1]
    block = 512
    moe_kernels.combine[(out.shape[0], cdiv(hidden, block))](
        part,
        shared if shared is not None else part,
        gate if gate is not None else part,
        out,
        hidden,
        topk,
        power_of_2(topk),
        block,
        shared is not None,
        gate is not None,
        num_warps=2,
    )
    return out


def experts_mlp(
    x: Tensor,
    gate_up: Experts,
    down: Experts,
    weights: Tensor,
    ids: Tensor,
    *,
    config: configs.Moe | None = None,
    shared: Tensor | None = None,
    shared_gate: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The routed experts: x [T, H], gate_up and down as in Experts, weights and ids [T, k] -> [T, H] bf16."""
    key = key_of(down, ids.shape[1])
    if isinstance(gate_up, Tensor):
        gate_up = gate_up.view(key.experts, -1, key.hidden)
    config = config or configs.moe(key, x.shape[0])
    tiles = tiles_for(ids, key.experts, config.gate_up.block_m)
    first, second = gemms(key.weights)
    y = first(x, gate_up, ids, tiles, config.gate_up)
    part = second(y, down, weights, ids, tiles, config.down)
    return combine(part, ids.shape[1], torch.empty_like(x) if out is None else out, shared, shared_gate)


def moe(
    x: Tensor,
    logits: Tensor,
    gate_up: Experts,
    down: Experts,
    topk: int,
    renormalise: bool = True,
    *,
    config: configs.Moe | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """From router logits [T, E] to the layer's output [T, H]: top-k, alignment, both GEMMs, combination."""
    weights, ids = top_k(logits, topk, renormalise)
    return experts_mlp(x, gate_up, down, weights, ids, config=config, out=out)


def bytes_moved(tokens: int, distinct: int, hidden: int, inter: int, weight_bytes: float = 2.0) -> float:
    """Each distinct expert's three matrices once, bf16 tokens in and out once; intermediates stay in L2."""
    return distinct * 3 * hidden * inter * weight_bytes + 4 * tokens * hidden


def flops(tokens: int, topk: int, hidden: int, inter: int) -> int:
    """Multiply-adds of three matrices for each (token, slot), counted twice."""
    return 2 * tokens * topk * 3 * hidden * inter
