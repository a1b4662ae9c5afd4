"""Weights of 8 and 4 bits as they are served, and how they are made from real numbers.

- `fp8`: e4m3 with one fp32 scale per 128 x 128 block; activations e4m3 with one per token and 128 channels
  (DeepSeek-V3, arXiv 2412.19437, section 3.3).
- `mxfp4`: e2m1 with one power of two (e8m0) per 32 inputs (OCP Microscaling Formats, v1.0), as gpt-oss is served;
  activations bf16.

Quantisation happens once, when weights are loaded; the kernels read what it leaves.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kernels._triton import cdiv

Format = Literal["bf16", "fp8", "mxfp4"]
BLOCK = 128  # side of an fp8 block, and length of an activation's group
E4M3_MAX = 448.0
GROUP = 32  # inputs that share an mxfp4 scale
CHUNK = 2 * GROUP  # inputs in 32 bytes: the low nibbles hold the first group, the high nibbles the second
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST_EXPONENT = 128  # of an mxfp4 scale as stored: 2; the kernel folds e2m1's bias into it
BYTES: dict[Format, float] = {"bf16": 2.0, "fp8": 1 + 4 / BLOCK**2, "mxfp4": (4 + 8 / GROUP) / 8}  # of a weight


class Quantized(NamedTuple):
    """Matrices [..., N, K]. fp8: data [..., N, K] e4m3, scales [..., N / 128, K / 128] fp32, rounded up. mxfp4: data
    [..., N, K / 2] and scales [..., N, K / 32], uint8.
    """

    data: Tensor
    scales: Tensor

    @property
    def format(self) -> Format:
        """What the data are."""
        return "mxfp4" if self.data.dtype == torch.uint8 else "fp8"

    @property
    def outputs(self) -> int:
        """Rows N."""
        return self.data.shape[-2]

    @property
    def inputs(self) -> int:
        """Columns K."""
        return self.data.shape[-1] * (2 if self.format == "mxfp4" else 1)


def expand(scales: Tensor, rows: int, columns: int) -> Tensor:
    """Scales [..., n, k] of 128 x 128 blocks as [..., rows, columns]."""
    return scales.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)[..., :rows, :columns]


def to_fp8(weight: Tensor) -> Quantized:
    """Matrices [..., N, K]; the scale maps a block's largest magnitude to 448. Sizes need not divide by 128."""
    *batch, rows, columns = weight.shape
    n, k = cdiv(rows, BLOCK), cdiv(columns, BLOCK)
    padded = weight.new_zeros((*batch, n * BLOCK, k * BLOCK))
    padded[..., :rows, :columns] = weight
    largest = padded.abs().view(*batch, n, BLOCK, k, BLOCK).amax((-3, -1)).float()
    scales = torch.where(largest > 0, largest / E4M3_MAX, 1.0)
    return Quantized((weight / expand(scales, rows, columns)).to(torch.float8_e4m3fn), scales)


def activations_to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """What `quantized.quantize` computes, in torch: x [T, K] -> e4m3 [T, K] and fp32 [T, K / 128], rounded up."""
    tokens, columns = x.shape
    padded = x.new_zeros((tokens, cdiv(columns, BLOCK) * BLOCK), dtype=torch.float32)
    padded[:, :columns] = x
    largest = padded.view(tokens, -1, BLOCK).abs().amax(-1)
    scales = torch.where(largest > 0, largest / E4M3_MAX, 1.0)
    return (padded[:, :columns] / scales.repeat_interleave(BLOCK, 1)[:, :columns]).to(torch.float8_e4m3fn), scales


def to_mxfp4(weight: Tensor) -> Quantized:
    """Matrices [..., N, K], K a multiple of 64: the nearest e2m1 under the scale 2^(floor(log2 of the largest) - 2).

    Raises ValueError for magnitudes of 16 and more, whose scale exceeds 2: no weight is that large.
    """
    if weight.shape[-1] % CHUNK:
        raise ValueError(f"mxfp4 needs a multiple of {CHUNK} inputs, not {weight.shape[-1]}")
    groups = weight.float().unflatten(-1, (-1, GROUP))
    largest = groups.abs().amax(-1)
    exponent = torch.where(largest > 0, largest.log2().floor() - 2, -127.0).clamp_min(-127)
    stored = exponent + 127
    if int(stored.max()) > LARGEST_EXPONENT:
        raise ValueError(f"mxfp4 weights of {float(largest.max()):.3g}; allowed: magnitudes below 16")
    grid = torch.tensor(E2M1, device=weight.device)
    middles = (grid[1:] + grid[:-1]) / 2
    scaled = groups / torch.exp2(exponent)[..., None]
    codes = torch.bucketize(scaled.abs(), middles) + 8 * (scaled < 0)
    return Quantized(pack(codes.flatten(-2).to(torch.uint8)), stored.to(torch.uint8).transpose(-1, -2).contiguous())


def pack(codes: Tensor) -> Tensor:
    """Codes [..., K] of 4 bits -> bytes [..., K / 2]: see CHUNK."""
    low, high = codes.unflatten(-1, (-1, 2, GROUP)).unbind(-2)
    return (low | high << 4).flatten(-2)


def unpack(data: Tensor) -> Tensor:
    """Bytes [..., K / 2] -> codes [..., K]: `pack` backwards."""
    plain = data.unflatten(-1, (-1, GROUP))
    return torch.stack([plain & 15, plain >> 4], -2).flatten(-3)


def dequantize(weight: Tensor | Quantized) -> Tensor:
    """The matrices [..., N, K] that the stored numbers mean, in float64."""
    if isinstance(weight, Tensor):
        return weight.double()
    if weight.format == "fp8":
        return weight.data.double() * expand(weight.scales, weight.outputs, weight.inputs).double()
    codes = unpack(weight.data).long()
    signed = torch.tensor([*E2M1, *(-v for v in E2M1)], dtype=torch.float64, device=codes.device)
    return signed[codes] * torch.exp2(weight.scales.double() - 127).transpose(-1, -2).repeat_interleave(GROUP, -1)


def quantize_weight(weight: Tensor, format: Format) -> Tensor | Quantized:
    """Matrices [..., N, K] in *format*."""
    return weight if format == "bf16" else to_fp8(weight) if format == "fp8" else to_mxfp4(weight)


def random_quantized(*size: int, format: Format, device: str = "cuda") -> Quantized:
    """Random matrices [..., N, K] whose products keep the input's scale, made in place: no bf16 copy in memory."""
    *batch, rows, columns = size
    spread = columns**-0.5
    if format == "mxfp4":
        data = torch.randint(256, (*batch, rows, columns // 2), dtype=torch.uint8, device=device)
        stored = 126 + round(torch.tensor(spread).log2().item())  # e2m1's magnitudes average 2.25
        return Quantized(data, torch.full((*batch, columns // GROUP, rows), stored, dtype=torch.uint8, device=device))
    data = torch.empty(size, dtype=torch.float8_e4m3fn, device=device)
    for part in data.view(-1, rows, columns):
        part.copy_((torch.randn((rows, columns), device=device) * 100).clamp_(-E4M3_MAX, E4M3_MAX))  # beyond is NaN
    blocks = (*batch, cdiv(rows, BLOCK), cdiv(columns, BLOCK))
    return Quantized(data, (0.5 + torch.rand(blocks, device=device)) * spread / 100)
