"""8- and 4-bit experts and dense products: activations quantised where the format wants it, then quantized_kernels.

fp8 quantises a layer's input in a launch of its own, and the intermediate in the gate-and-up program that made it:
128 of its channels are one program's. mxfp4 leaves activations in bf16.
"""

import torch
from torch import Tensor

from kernels import configs, quantized_kernels
from kernels._triton import SMS, UPCAST, cdiv, power_of_2
from kernels.formats import BLOCK, BYTES, Quantized, dequantize
from kernels.routing import Tiles

Activations = tuple[Tensor, Tensor]  # e4m3 [T, K] and scales fp32 [T, K / 128], rounded up; or bf16 twice
TileList = tuple[Tiles | None, int, int]


def quantize(x: Tensor) -> Activations:
    """x [T, K] -> e4m3 with one scale per token and 128 channels."""
    tokens, depth = x.shape
    groups = cdiv(depth, BLOCK)
    data = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty((tokens, groups), dtype=torch.float32, device=x.device)
    block = min(8, power_of_2(groups))
    quantized_kernels.quantize[(tokens, cdiv(groups, block))](
        x, data, scales, depth, groups, block, UPCAST, num_warps=4
    )
    return data, scales


def gate_up_silu(x: Tensor, w: Quantized, ids: Tensor, tiles: TileList, config: configs.Gemm) -> Activations:
    """silu(x Wg) * (x Wu) of every (token, slot), as `down_weighted` takes it: x [T, H], w [E, 2, I, H] -> [T * k, I].

    With fp8, whose scales start anew at the up rows, config.block_n is 128 and block_k is not used.
    """
    inter, hidden = w.outputs, w.inputs
    fp4 = w.format == "mxfp4"
    data, scales = (x, x) if fp4 else quantize(x)
    y = torch.empty((ids.numel(), inter), dtype=data.dtype, device=x.device)
    ys = y if fp4 else torch.empty((ids.numel(), cdiv(inter, BLOCK)), dtype=torch.float32, device=x.device)
    found, count, block_p = tiles
    expert, pairs = found or (ids, ids)
    block_k = step_inputs(w, config)
    even = hidden % block_k == 0 and inter % config.block_n == 0
    quantized_kernels.gate_up_silu[(count * cdiv(inter, config.block_n),)](
        data, scales, w.data, w.scales, y, ys, ids, expert, pairs, count, ids.numel(), ids.shape[1], hidden, inter,
        config.block_m, config.block_n, block_k, block_p, config.group, even, fp4, UPCAST,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return y, ys


def down_weighted(
    y: Activations, w: Quantized, weights: Tensor, ids: Tensor, tiles: TileList, config: configs.Gemm
) -> Tensor:  # fmt: skip
    """Router weight times y Wd for every (token, slot): y [T * k, I], w [E, H, I] -> [T * k, H] bf16."""
    hidden, inter = w.outputs, w.inputs
    fp4 = w.format == "mxfp4"
    part = torch.empty((ids.numel(), hidden), dtype=torch.bfloat16, device=ids.device)
    found, count, block_p = tiles
    expert, pairs = found or (ids, ids)
    block_k = step_inputs(w, config)
    even = inter % block_k == 0 and hidden % config.block_n == 0
    quantized_kernels.down[(count * cdiv(hidden, config.block_n),)](
        *y, w.data, w.scales, weights, part, ids, expert, pairs, count, ids.numel(), hidden, inter, config.block_m,
        config.block_n, block_k, block_p, config.group, even, fp4, UPCAST, num_warps=config.num_warps,
        num_stages=config.num_stages,
    )  # fmt: skip
    return part


def step_inputs(w: Quantized, config: configs.Gemm) -> int:
    """Inputs a step of a product takes: with fp8 those of a scale, with mxfp4 as configured, but no more than w has."""
    return min(config.block_k, power_of_2(w.inputs // 2 + 1)) if w.format == "mxfp4" else BLOCK


def reference(x: Tensor, weight: Quantized) -> Tensor:
    """x [T, K] times weight [N, K] transposed, of what is stored, in float64; activations as they come."""
    return x.double() @ dequantize(weight).T


def project(x: Tensor, weight: Quantized) -> Tensor:
    """x [T, K] bf16 times fp8 weight [N, K] transposed -> [T, N] bf16, x quantised on the way."""
    tokens, inputs = x.shape
    outputs = weight.outputs
    block_m = min(64, max(16, power_of_2(tokens)))
    tiles = cdiv(tokens, block_m)
    block_n = 128 if tiles * cdiv(outputs, 128) >= SMS else 64
    out = torch.empty((tokens, outputs), dtype=x.dtype, device=x.device)
    even = inputs % BLOCK == 0 and outputs % block_n == 0
    quantized_kernels.project[(tiles * cdiv(outputs, block_n),)](
        *quantize(x), weight.data, weight.scales, out, tokens, inputs, outputs, block_m, block_n, 16, even, UPCAST,
        num_warps=4, num_stages=4,
    )  # fmt: skip
    return out


def project_bytes(tokens: int, inputs: int, outputs: int) -> float:
    """The fp8 weight and its scales once, bf16 activations in and out once."""
    return inputs * outputs * BYTES["fp8"] + 2 * tokens * (inputs + outputs)
