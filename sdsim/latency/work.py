"""The bytes that each kernel must move and the flops that it must do, in one place: the roofline's, the family fits',
and, held equal by a test, the kernels' own.

Inputs are read once and outputs written once; what a kernel writes and its successor reads at once (a MoE layer's
intermediates, sampling's logits from the head) stays in the second-level cache or is counted where it is read.
Activations, keys and values have 16 bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sdsim.matrices import Matrix
from sdsim.models import Mla, Model
from sdsim.policy import IntArray

WIDTH = 2.0
"""Bytes of an activation."""


class Work(NamedTuple):
    """Bytes and flops of one kernel."""

    size: float
    flops: float


Sizes = npt.NDArray[np.floating[Any]]


class Works(NamedTuple):
    """Bytes and flops of a kernel at many sizes: arrays of one shape."""

    size: Sizes
    flops: Sizes


def product(tokens: IntArray, matrix: Matrix, weight_bytes: float) -> Works:
    """A product of *tokens* rows with a matrix."""
    parameters = matrix.inputs * matrix.outputs
    return Works(
        parameters * weight_bytes + WIDTH * tokens * (matrix.inputs + matrix.outputs), 2.0 * tokens * parameters
    )


def experts(model: Model, tokens: int, distinct: float) -> Work:
    """One layer's routed experts: *tokens* tokens that load *distinct* experts."""
    weights = distinct * model.expert_parameters * model.expert_bytes
    flops = 2.0 * tokens * model.experts_per_token * model.expert_parameters
    return Work(weights + 2 * WIDTH * tokens * model.hidden, flops)


def attention(heads: float, kv_heads: float, head_dim: int, stored: float, queries: float, pairs: float) -> Work:
    """One layer's attention of *queries* positions over *stored* keys, theirs included, in *pairs* visible pairs."""
    kv, in_and_out = 2 * stored * kv_heads * head_dim, 2 * queries * heads * head_dim
    return Work(WIDTH * (kv + in_and_out), 4.0 * heads * head_dim * pairs)


def latent_attention(heads: float, rank: int, rope: int, stored: float, queries: float, pairs: float) -> Work:
    """One layer's absorbed MLA (arXiv 2405.04434, section 2.1): as `attention`, keys and values being one latent."""
    size = stored * (rank + rope) + queries * heads * (2 * rank + rope)
    return Work(WIDTH * size, 2.0 * heads * (2 * rank + rope) * pairs)


def expanded_attention(model: Model, mla: Mla, heads: float, context: float, queries: float, pairs: float) -> Work:
    """One layer's MLA on prompts, by heads: latents of *context* earlier tokens are expanded to keys and values anew.

    The new tokens' expansion is a projection of theirs, and counted there.
    """
    key, value = model.head_dim, mla.v_dim
    size = (2 * context + queries) * heads * (key + value) + queries * heads * (key + value)
    size += context * (mla.kv_lora_rank + mla.rope_dim)
    expansion = 2.0 * context * mla.kv_lora_rank * heads * (mla.nope_dim + value)
    return Work(WIDTH * size, 2.0 * heads * (key + value) * pairs + expansion)


def norm(tokens: IntArray, hidden: int) -> Works:
    """One norm: branch and residual in, residual and normed out."""
    return Works(WIDTH * 4 * tokens * hidden, 0.0 * tokens)


def rope(tokens: IntArray, heads: int, kv_heads: int, head_dim: int) -> Works:
    """The rotary embedding and the cache's update: query, key and value in and out."""
    return Works(WIDTH * 2 * tokens * (heads + 2 * kv_heads) * head_dim, 0.0 * tokens)


def silu(tokens: IntArray, intermediate: int) -> Works:
    """SiLU times up: gate and up in, their product out."""
    return Works(WIDTH * 3 * tokens * intermediate, 0.0 * tokens)


def sampling(rows: IntArray, vocabulary: int) -> Works:
    """Sampling of *rows* rows: the logits once for the distribution and once for the draw."""
    return Works(WIDTH * 2 * rows * vocabulary, 0.0 * rows)
