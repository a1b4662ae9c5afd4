"""The dense half of a layer: projections through cuBLAS, as engines do, and the small kernels that engines fuse around
them.

Residual + RMSNorm is one launch, SiLU times up another: the number of launches per layer is a real engine's.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import linear, silu

from kernels._triton import cdiv, power_of_2


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x / rms(x) * weight over the last axis, in float64."""
    x = x.double()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.double()


def silu_mul_reference(gate_up: Tensor) -> Tensor:
    """silu(gate) * up in float64."""
    gate, up = gate_up.double().chunk(2, dim=-1)
    return silu(gate) * up


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """x [T, in] times weight [out, in] transposed, through cuBLAS."""
    if out is None:
        return linear(x, weight, bias)
    return torch.mm(x, weight.t(), out=out)


def project_bytes(tokens: int, inputs: int, outputs: int, itemsize: int = 2) -> int:
    """Weight once, activations in and out once."""
    return itemsize * (inputs * outputs + tokens * (inputs + outputs))


def project_flops(tokens: int, inputs: int, outputs: int) -> int:
    """Multiply-adds, counted twice."""
    return 2 * tokens * inputs * outputs


@triton.jit
def _add_rms_norm(
    x, residual, weight, y, hidden, eps, block: tl.constexpr, has_residual: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * hidden
    i = tl.arange(0, block)
    inside = i < hidden
    v = tl.load(x + row + i, mask=inside, other=0.0).to(tl.float32)
    if has_residual:
        v += tl.load(residual + row + i, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual + row + i, v.to(residual.dtype.element_ty), mask=inside)
    scale = tl.rsqrt(tl.sum(v * v, 0) / hidden + eps)
    w = tl.load(weight + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row + i, (v * scale * w).to(y.dtype.element_ty), mask=inside)


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """residual += x in place (when given), then the RMS norm of the sum: x, residual [T, H] -> [T, H]."""
    y = torch.empty_like(x)
    tokens, hidden = x.shape
    block = power_of_2(hidden)
    _add_rms_norm[(tokens,)](
        x, x if residual is None else residual, weight, y, hidden, eps, block, residual is not None,
        num_warps=min(8, max(1, block // 512)),
    )  # fmt: skip
    return y


def norm_bytes(tokens: int, hidden: int, itemsize: int = 2) -> int:
    """Branch and residual in, residual and normed out."""
    return itemsize * 4 * tokens * hidden


@triton.jit
def _silu_mul(gate_up, y, inter, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * block + tl.arange(0, block)
    gate = tl.load(gate_up + row * 2 * inter + i, mask=i < inter, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inter + inter + i, mask=i < inter, other=0.0).to(tl.float32)
    tl.store(y + row * inter + i, (gate / (1.0 + tl.exp(-gate)) * up).to(y.dtype.element_ty), mask=i < inter)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate_up [T, 2I] -> [T, I]."""
    tokens, inter = gate_up.shape[0], gate_up.shape[1] // 2
    y = torch.empty((tokens, inter), dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul[(tokens, cdiv(inter, 1024))](gate_up, y, inter, 1024, num_warps=4)
    return y


def silu_mul_bytes(tokens: int, inter: int, itemsize: int = 2) -> int:
    """Gate and up in, their product out."""
    return itemsize * 3 * tokens * inter
