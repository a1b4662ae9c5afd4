"""Attention over parts of a KV cache: how many parts of it, and their combination.

A program walks its part block by block; parts fill the SMs where sequences are few, and shorten the longest walk. Every
part of every query row is written and read once more. The choice is the one of the least predicted time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._triton import cdiv, power_of_2

START = tl.constexpr(-1e29)  # the least maximum of a part
MOST, LEAST_TOKENS = 128, 64  # parts; tokens of a part
BYTE_US = 1 / 4.5e6  # of KV, with all SMs reading
COMBINE_US, NUMBER_US = 1.0, 3.5e-6  # the second launch; a number of a row, or of one of its parts


class Walk(NamedTuple):
    """What a kernel takes to walk with *rows* of queries through blocks of *tokens*, *slots* programs at a time."""

    rows: int
    tokens: int
    slots: int
    block_us: float
    start_us: float
    """Before the first block and after the last."""

    def microseconds(self, programs: int, length: int, kv_bytes: int, numbers: int, splits: int) -> float:
        """Of *programs* for each of the parts; their rows are *numbers* wide in all."""
        waves = cdiv(programs * splits, self.slots)
        chain = waves * (cdiv(cdiv(length, self.tokens), splits) * self.block_us + self.start_us)
        combined = COMBINE_US + numbers * NUMBER_US * (1 + power_of_2(splits)) if splits > 1 else 0.0
        return math.hypot(chain, kv_bytes * BYTE_US) + combined


@lru_cache(4096)
def best_split(
    walks: tuple[Walk, ...], caches: int, rows: int, length: int, kv_bytes: int, numbers: int
) -> tuple[Walk, int]:
    """The walk and the number of parts, none under LEAST_TOKENS, of the least time; each of *caches* has *rows*."""

    def choices() -> Iterable[tuple[float, Walk, int]]:
        for walk in walks:
            programs = caches * cdiv(rows, walk.rows)
            for splits in range(1, max(1, min(MOST, cdiv(length, max(LEAST_TOKENS, walk.tokens)))) + 1):
                yield walk.microseconds(programs, length, kv_bytes, numbers, splits), walk, splits

    return min(choices())[1:]


@triton.jit(do_not_specialize=["splits"])
def _combine(part_o, part_m, part_l, out, splits, dim: tl.constexpr, block_d: tl.constexpr, block_s: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, block_s)
    d = tl.program_id(1) * block_d + tl.arange(0, block_d)
    m = tl.load(part_m + row * splits + s, mask=s < splits, other=START)
    part = tl.load(part_l + row * splits + s, mask=s < splits, other=0.0)
    o = tl.load(part_o + (row * splits + s)[:, None] * dim + d[None, :], mask=(s < splits)[:, None], other=0.0)
    weight = tl.exp2(m - tl.max(m, 0))
    total = tl.sum(weight * part, 0)
    o = tl.sum(o * weight[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * dim + d, o.to(out.dtype.element_ty))


class Parts(NamedTuple):
    """What each part of each row leaves: weighted values [rows * splits, D], maxima and sums [rows * splits]."""

    o: Tensor
    m: Tensor
    total: Tensor

    def combine(self, out: Tensor, splits: int) -> None:
        """Sum the parts, weighted by their maxima and sums, into out [..., D]."""
        dim = out.shape[-1]
        block = min(dim, 128)
        _combine[(out.numel() // dim, dim // block)](
            self.o, self.m, self.total, out, splits, dim, block, power_of_2(splits), num_warps=4
        )


def make_parts(rows: int, splits: int, dim: int, device: torch.device) -> Parts:
    """Room for the parts of *rows*; none if there is one part."""
    size = rows * splits if splits > 1 else 0
    o = torch.empty((size, dim), dtype=torch.float32, device=device)
    return Parts(o, *torch.empty((2, size), dtype=torch.float32, device=device))
