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
UNIT = 16  # rows of an mxfp4 unit, of UNIT x CHUNK numbers
CHUNK = 2 * GROUP  # inputs of a unit
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST_EXPONENT = 128  # of an mxfp4 scale in e8m0: 2
# Number i = 0 to 3 of a 16-bit half of a word (rows g and g + 8, then the same 8 inputs on) has its sign and the lowest
# of its three other bits here; half 0 is the even input. From these places few shifts take them to bf16's: none, one by
# 3, and two each for those whose sign and magnitude move apart.
SIGNS = (15, 12, 14, 13)
MAGNITUDES = (6, 3, 0, 9)
BIAS = 126  # of a scale as stored, over e8m0: the kernel's codes are worth 2^-126 of theirs
BYTES: dict[Format, float] = {"bf16": 2.0, "fp8": 1 + 4 / BLOCK**2, "mxfp4": (4 + 8 / GROUP) / 8}  # of a weight


class Quantized(NamedTuple):
    """Matrices [..., N, K]. fp8: data [..., N, K] e4m3, scales [..., N / 128, K / 128] fp32, rounded up. mxfp4: data
    [..., N / 16, K / 64, 128] and scales [..., N / 16, K / 64, 8], int32: see `pack` and `pack_scales`.
    """

    data: Tensor
    scales: Tensor

    @property
    def format(self) -> Format:
        """What the data are."""
        return "mxfp4" if self.data.dtype == torch.int32 else "fp8"

    @property
    def outputs(self) -> int:
        """Rows N."""
        return self.data.shape[-3] * UNIT if self.format == "mxfp4" else self.data.shape[-2]

    @property
    def inputs(self) -> int:
        """Columns K."""
        return self.data.shape[-2] * CHUNK if self.format == "mxfp4" else self.data.shape[-1]


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
    """Matrices [..., N, K], N a multiple of 16 and K of 64: the nearest e2m1 under the scale 2^(floor(log2 of the
    largest) - 2).

    Raises ValueError for magnitudes of 16 and more, whose scale exceeds 2: no weight is that large.
    """
    if weight.shape[-2] % UNIT or weight.shape[-1] % CHUNK:
        raise ValueError(
            f"mxfp4 needs a multiple of {UNIT} outputs and of {CHUNK} inputs, not {tuple(weight.shape[-2:])}"
        )
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
    return Quantized(pack(codes.flatten(-2)), pack_scales(stored.long()))


def pack(codes: Tensor) -> Tensor:
    """Codes [..., N, K] of 4 bits, s e e m -> int32 [..., N / 16, K / 64, 128]: what a lane of a warp feeds wgmma.

    Lane 4 g + c of the warp that holds a unit of 16 rows reads words 4 (4 g + c) to + 3; word t holds its 8 numbers of
    inputs 16 t to 16 t + 15, rows g and g + 8, inputs 2 c, 2 c + 1, 2 c + 8 and 2 c + 9 (PTX ISA, wgmma's register
    fragments of A). Their bits lie where few instructions widen them: see SIGNS and MAGNITUDES.
    """
    places = codes.unflatten(-1, (-1, 4, 2, 4, 2)).unflatten(-6, (-1, 2, 8))  # unit, r, g, chunk, t, h, c, p
    near = places.movedim((-8, -5, -6, -2, -4, -3, -7, -1), (-8, -7, -6, -5, -4, -3, -2, -1)).flatten(-3, -2).long()
    at_signs, at_magnitudes = _bits(codes.device)
    return _words((near >> 3 << at_signs) + ((near & 7) << at_magnitudes), 2).flatten(-3)


def unpack(words: Tensor) -> Tensor:
    """int32 [..., N / 16, K / 64, 128] -> codes [..., N, K]: `pack` backwards."""
    near = words.long().unflatten(-1, (8, 4, 4))[..., None, None]
    at_signs, at_magnitudes = _bits(words.device)
    codes = (near >> at_signs & 1) << 3 | near >> at_magnitudes & 7
    places = codes.unflatten(-2, (2, 2)).movedim((-8, -7, -6, -5, -4, -3, -2, -1), (-8, -5, -6, -2, -4, -3, -7, -1))
    return places.flatten(-5).flatten(-4, -2)


def _bits(device: torch.device) -> tuple[Tensor, Tensor]:
    """Where in a word the signs and the magnitudes of its numbers lie, [4, 2]: number i, half."""
    signs, magnitudes, halves = (torch.tensor(v, device=device) for v in (SIGNS, MAGNITUDES, (0, 16)))
    return signs[:, None] + halves, magnitudes[:, None] + halves


def pack_scales(stored: Tensor) -> Tensor:
    """e8m0 [..., N, K / 32] -> int32 [..., N / 16, K / 64, 8]: word g holds those of rows g and g + 8, of a unit's
    first 32 inputs in the low half and of the others in the high half, BIAS added.
    """
    near = stored.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2, 8))  # unit, r, g, chunk, group
    bytes_ = near.movedim((-5, -2, -3, -1, -4), (-5, -4, -3, -2, -1)).flatten(-2).long() + BIAS
    return _words(bytes_ << 8 * torch.arange(4, device=stored.device), 1)


def unpack_scales(words: Tensor) -> Tensor:
    """int32 [..., N / 16, K / 64, 8] -> e8m0 [..., N, K / 32]: `pack_scales` backwards."""
    near = (words.long()[..., None] >> 8 * torch.arange(4, device=words.device) & 255).unflatten(-1, (2, 2)) - BIAS
    places = near.movedim((-5, -4, -3, -2, -1), (-5, -2, -3, -1, -4))
    return places.flatten(-2).flatten(-4, -2)


def _words(bits: Tensor, axes: int) -> Tensor:
    """Disjoint bits of 32, summed over the last *axes* axes, as int32."""
    unsigned = bits.sum(tuple(range(-axes, 0)))
    return torch.where(unsigned >= 2**31, unsigned - 2**32, unsigned).to(torch.int32)


def dequantize(weight: Tensor | Quantized) -> Tensor:
    """The matrices [..., N, K] that the stored numbers mean, in float64."""
    if isinstance(weight, Tensor):
        return weight.double()
    if weight.format == "fp8":
        return weight.data.double() * expand(weight.scales, weight.outputs, weight.inputs).double()
    signed = torch.tensor([*E2M1, *(-v for v in E2M1)], dtype=torch.float64, device=weight.data.device)
    powers = torch.exp2(unpack_scales(weight.scales).double() - 127)
    return signed[unpack(weight.data)] * powers.repeat_interleave(GROUP, -1)


def quantize_weight(weight: Tensor, format: Format) -> Tensor | Quantized:
    """Matrices [..., N, K] in *format*."""
    return weight if format == "bf16" else to_fp8(weight) if format == "fp8" else to_mxfp4(weight)


def random_quantized(*size: int, format: Format, device: str = "cuda") -> Quantized:
    """Random matrices [..., N, K] whose products keep the input's scale, made in place: no bf16 copy in memory."""
    *batch, rows, columns = size
    spread = columns**-0.5
    if format == "mxfp4":
        units = (*batch, rows // UNIT, columns // CHUNK)
        data = torch.randint(-(2**31), 2**31, (*units, 128), dtype=torch.int32, device=device)
        stored = 126 + round(torch.tensor(spread).log2().item())  # e2m1's magnitudes average 2.25
        same = (stored + BIAS) * 0x01010101 - 2**32
        return Quantized(data, torch.full((*units, 8), same, dtype=torch.int32, device=device))
    data = torch.empty(size, dtype=torch.float8_e4m3fn, device=device)
    for part in data.view(-1, rows, columns):
        part.copy_((torch.randn((rows, columns), device=device) * 100).clamp_(-E4M3_MAX, E4M3_MAX))  # beyond is NaN
    blocks = (*batch, cdiv(rows, BLOCK), cdiv(columns, BLOCK))
    return Quantized(data, (0.5 + torch.rand(blocks, device=device)) * spread / 100)
