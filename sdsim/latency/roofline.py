"""Step times from bytes and flops: no measurement needed, and none claimed.

A kernel takes the longer of its bytes over the memory's achievable rate and its flops over the matrix units' (Williams
et al. 2009); each kernel in a captured graph adds `launch_s`. The rates are the GPU's datasheet times the share that
plain kernels reach (`gpus.yaml`). A lower bound in spirit: measured kernels are slower by their own fixed costs.
"""

from __future__ import annotations

from sdsim.gpus import Gpu
from sdsim.latency.quality import FREE, Price, Quality
from sdsim.matrices import Matrix
from sdsim.models import Model

NORM_PASSES = 10
"""Reads and writes of the hidden state a layer makes outside its matrix products: two norms, residuals, rotary."""
SAMPLING_PASSES = 3
"""Passes over fp32 logits: written by the head, read for the maximum and sum, read for the residual."""


def product_work(tokens: int, matrix: Matrix, weight_bytes: float) -> tuple[float, float]:
    """Return the bytes and the flops of a product of *tokens* rows, activations in 16 bits."""
    parameters = matrix.inputs * matrix.outputs
    return parameters * weight_bytes + 2.0 * tokens * (matrix.inputs + matrix.outputs), 2.0 * tokens * parameters


class RooflineKernels:
    """See `sdsim.latency.composition.Kernels`."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.launch = Price(gpu.launch_s, Quality.EXTRAPOLATED)
        self.bytes_per_s = gpu.bandwidth * gpu.read_fraction
        self.flops_per_s = gpu.flops_bf16 * gpu.flops_fraction
        self._fp8_flops_per_s = max(gpu.flops_fp8, gpu.flops_bf16) * gpu.flops_fraction

    def price(self, size: float, flops: float, weight_bytes: float = 2.0) -> Price:
        """Return the longer of *size* bytes and *flops*, with weights of *weight_bytes* each."""
        # 4-bit weights are widened to bf16 before the matrix units see them
        rate = self._fp8_flops_per_s if 0.9 < weight_bytes < 1.5 else self.flops_per_s
        return Price(max(size / self.bytes_per_s, flops / rate), Quality.EXTRAPOLATED)

    def dense(self, tokens: int, matrix: Matrix, weight_bytes: float) -> Price:
        """Weights, inputs and outputs pass once."""
        return self.price(*product_work(tokens, matrix, weight_bytes), weight_bytes) if tokens else FREE

    def experts(self, model: Model, tokens: int, distinct: float, share: float) -> Price:
        """Each distinct expert's weights are read once; every token computes in `experts_per_token` of them."""
        if not tokens:
            return FREE
        weights = distinct * model.expert_parameters * model.expert_bytes
        activations = tokens * model.experts_per_token * 2.0 * (2 * model.hidden + 3 * model.expert_intermediate)
        flops = 2.0 * tokens * model.experts_per_token * model.expert_parameters
        return self.price((weights + activations) * share, flops * share, model.expert_bytes)

    def attention(self, model: Model, share: float) -> RooflineAttention:
        """KV is read once per row; scores and values cost 4 flops per query head, pair and head dimension.

        MLA works in its latent: 2 (kv_lora_rank + rope_dim) flops a score and 2 kv_lora_rank a value; the latent is
        on every rank.
        """
        mla = model.mla
        size = model.kv_bytes_per_token / model.layers * (1.0 if mla else share)
        width = 4.0 * model.head_dim if mla is None else 2.0 * (2 * mla.kv_lora_rank + mla.rope_dim)
        return RooflineAttention(size / self.bytes_per_s, width * model.heads * share / self.flops_per_s)

    def norms(self, model: Model, tokens: int) -> Price:
        """Memory passes over the hidden states."""
        return self.price(NORM_PASSES * tokens * model.hidden * 2.0, 0.0)

    def sampling(self, rows: int, vocabulary: int) -> Price:
        """Passes over fp32 logits."""
        return self.price(SAMPLING_PASSES * rows * vocabulary * 4.0, 0.0)

    def all_reduce(self, size: float, ranks: int) -> Price:
        """Alpha-beta cost of a ring: 2 (n - 1) / n of the bytes over the link, and a latency."""
        seconds = self.gpu.link_latency_s + 2 * (ranks - 1) / ranks * size / self.gpu.link_bandwidth
        return Price(seconds, Quality.EXTRAPOLATED)


class RooflineAttention:
    """Bytes of KV, or scores, whichever takes longer. Seconds per stored token and per query-key pair of a layer."""

    def __init__(self, per_token: float, per_pair: float) -> None:
        self._per_token, self._per_pair = per_token, per_pair

    def verify(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """See `Attention.verify`."""
        read, scores = (context + queries) * self._per_token, pairs * self._per_pair
        return read if read > scores else scores

    prefill = verify

    def quality(self, rows: int, context: int) -> Quality:
        """Return that nothing here was measured."""
        return Quality.EXTRAPOLATED
