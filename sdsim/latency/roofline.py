"""Step times from bytes and flops: no measurement needed, and none claimed.

A kernel takes the longer of its bytes over the memory's achievable rate and its flops over the matrix units' (Williams
et al. 2009); each kernel in a captured graph adds `launch_s`. The rates are the GPU's datasheet times the share that
plain kernels reach (`gpus.yaml`). A lower bound in spirit: measured kernels are slower by their own fixed costs.
"""

from __future__ import annotations

from collections.abc import Callable

from sdsim.gpus import Gpu
from sdsim.matrices import Matrix
from sdsim.models import Model

NORM_PASSES = 10
"""Reads and writes of the hidden state a layer makes outside its matrix products: two norms, residuals, rotary."""
SAMPLING_PASSES = 3
"""Passes over fp32 logits: written by the head, read for the maximum and sum, read for the residual."""


class RooflineKernels:
    """See `sdsim.latency.composition.Kernels`; every figure in s."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.launch_s = gpu.launch_s
        self._bytes_per_s = gpu.bandwidth * gpu.read_fraction
        self._flops_per_s = gpu.flops_bf16 * gpu.flops_fraction
        self._fp8_flops_per_s = max(gpu.flops_fp8, gpu.flops_bf16) * gpu.flops_fraction

    def _time(self, size: float, flops: float, weight_bytes: float = 2.0) -> float:
        # 4-bit weights are widened to bf16 before the matrix units see them
        rate = self._fp8_flops_per_s if 0.9 < weight_bytes < 1.5 else self._flops_per_s
        return max(size / self._bytes_per_s, flops / rate)

    def dense(self, tokens: int, matrix: Matrix, weight_bytes: float) -> float:
        """Weights, inputs and outputs pass once."""
        parameters = matrix.inputs * matrix.outputs
        size = parameters * weight_bytes + 2.0 * tokens * (matrix.inputs + matrix.outputs)
        return self._time(size, 2.0 * tokens * parameters, weight_bytes) if tokens else 0.0

    def experts(self, model: Model, tokens: int, distinct: float, share: float) -> float:
        """Each distinct expert's weights are read once; every token computes in `experts_per_token` of them."""
        if not tokens:
            return 0.0
        weights = distinct * model.expert_parameters * model.expert_bytes
        activations = tokens * model.experts_per_token * 2.0 * (2 * model.hidden + 3 * model.expert_intermediate)
        flops = 2.0 * tokens * model.experts_per_token * model.expert_parameters
        return self._time((weights + activations) * share, flops * share, model.expert_bytes)

    def attention(self, model: Model, share: float) -> Callable[[int, int, int], float]:
        """KV is read once per row; scores and values cost 4 flops per query head, pair and head dimension.

        MLA works in its latent: 2 (kv_lora_rank + rope_dim) flops a score and 2 kv_lora_rank a value; the latent is
        on every rank.
        """
        mla = model.mla
        size = model.kv_bytes_per_token / model.layers * (1.0 if mla else share)
        width = 4.0 * model.head_dim if mla is None else 2.0 * (2 * mla.kv_lora_rank + mla.rope_dim)
        per_token, per_pair = size / self._bytes_per_s, width * model.heads * share / self._flops_per_s

        def seconds(queries: int, context: int, pairs: int) -> float:
            read, scores = (context + queries) * per_token, pairs * per_pair
            return read if read > scores else scores

        return seconds

    def norms(self, model: Model, tokens: int) -> float:
        """Memory passes over the hidden states."""
        return self._time(NORM_PASSES * tokens * model.hidden * 2.0, 0.0)

    def sampling(self, rows: int, vocabulary: int) -> float:
        """Passes over fp32 logits."""
        return self._time(SAMPLING_PASSES * rows * vocabulary * 4.0, 0.0)

    def all_reduce(self, size: float, ranks: int) -> float:
        """Alpha-beta cost of a ring: 2 (n - 1) / n of the bytes over the link, and a latency."""
        return self.gpu.link_latency_s + 2 * (ranks - 1) / ranks * size / self.gpu.link_bandwidth
