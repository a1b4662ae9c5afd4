"""Step times from bytes and flops: no measurement needed, and none claimed.

A kernel takes the longer of its bytes over the memory's achievable rate and its flops over the matrix units' (Williams
et al. 2009); each kernel in a captured graph adds `launch_s`. The rates are the GPU's datasheet times the share that
plain kernels reach (`gpus.yaml`). A lower bound in spirit: measured kernels are slower by their own fixed costs.
"""

from __future__ import annotations

import numpy as np

from sdsim.gpus import Gpu
from sdsim.latency import work
from sdsim.latency.quality import FREE, Price, PriceList, Quality, listed
from sdsim.matrices import Matrix
from sdsim.models import Model
from sdsim.policy import IntArray


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
        return Price(max(size / self.bytes_per_s, flops / self._flops_rate(weight_bytes)), Quality.EXTRAPOLATED)

    def _flops_rate(self, weight_bytes: float) -> float:
        # 4-bit weights are widened to bf16 before the matrix units see them
        return self._fp8_flops_per_s if 0.9 < weight_bytes < 1.5 else self.flops_per_s

    def _prices(self, sizes: IntArray, needed: work.Works, weight_bytes: float = 2.0) -> PriceList:
        seconds = np.maximum(needed.size / self.bytes_per_s, needed.flops / self._flops_rate(weight_bytes))
        return listed(sizes, seconds, Quality.EXTRAPOLATED)

    def dense(self, tokens: IntArray, matrix: Matrix, weight_bytes: float) -> PriceList:
        """Weights, inputs and outputs pass once."""
        return self._prices(tokens, work.product(tokens, matrix, weight_bytes), weight_bytes)

    def experts(self, model: Model, tokens: int, distinct: float, share: float) -> Price:
        """Each distinct expert's weights are read once; every token computes in `experts_per_token` of them."""
        if not tokens:
            return FREE
        size, flops = work.experts(model, tokens, distinct)
        return self.price(size * share, flops * share, model.expert_bytes)

    def attention(self, model: Model, share: float) -> RooflineAttention:
        """KV is read once per row; scores and values cost 4 flops per query head, pair and head dimension.

        MLA works in its latent: 2 (kv_lora_rank + rope_dim) flops a score and 2 kv_lora_rank a value; the latent is
        on every rank.
        """
        mla = model.mla
        if mla is not None:
            per_token, per_query = model.kv_bytes_per_token / model.layers, 0.0
            per_pair = 2.0 * (2 * mla.kv_lora_rank + mla.rope_dim) * model.heads * share
        else:
            heads = model.heads * share, model.kv_heads * share, model.head_dim
            per_token = work.attention(*heads, 1, 0, 0).size
            per_query = work.attention(*heads, 0, 1, 0).size
            per_pair = work.attention(*heads, 0, 0, 1).flops
        rates = self.bytes_per_s, self.flops_per_s
        return RooflineAttention(per_token / rates[0], per_query / rates[0], per_pair / rates[1])

    def norms(self, model: Model, tokens: IntArray) -> PriceList:
        """Two norms, the rotary embedding, and the activation of a dense feed-forward or a shared expert."""
        width = model.shared_intermediate or (model.intermediate if model.dense_layers else 0)
        size = 2 * work.norm(tokens, model.hidden).size + work.silu(tokens, width).size
        size = size + work.rope(tokens, model.heads, model.kv_heads, model.head_dim).size
        return self._prices(tokens, work.Works(size, 0.0 * tokens))

    def sampling(self, rows: IntArray, vocabulary: int) -> PriceList:
        """The passes over the logits."""
        return self._prices(rows, work.sampling(rows, vocabulary))


class RooflineAttention:
    """Bytes of KV, queries and outputs, or scores, whichever takes longer.

    Seconds of a layer per stored token, per query position and per query-key pair.
    """

    def __init__(self, per_token: float, per_query: float, per_pair: float) -> None:
        self._per_token, self._per_query, self._per_pair = per_token, per_query, per_pair

    def verify(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """See `Attention.verify`."""
        read = (context + queries) * self._per_token + queries * self._per_query
        scores = pairs * self._per_pair
        return read if read > scores else scores

    prefill = verify

    def quality(self, rows: int, context: int) -> Quality:
        """Return that nothing here was measured."""
        return Quality.EXTRAPOLATED
