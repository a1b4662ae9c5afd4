"""Step times from bytes and flops: no measurement needed, and none claimed.

A kernel takes the longer of its bytes over the memory's achievable rate and its flops over the matrix units' (Williams
et al. 2009); each kernel in a captured graph adds `launch_s`. The rates are the GPU's datasheet times the share that
plain kernels reach (`gpus.yaml`). A lower bound in spirit: measured kernels are slower by their own fixed costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sdsim.gpus import Gpu
from sdsim.latency import work
from sdsim.latency.quality import FREE, Price, PriceList, Quality, listed
from sdsim.latency.work import Work
from sdsim.matrices import Matrix
from sdsim.model_config import weight_format
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

    def _flops_rate(self, weight_bytes: float) -> float:
        # 4-bit weights are widened to bf16 before the matrix units see them
        return self._fp8_flops_per_s if weight_format(weight_bytes) == "fp8" else self.flops_per_s

    def _prices(self, sizes: IntArray, needed: work.Works, weight_bytes: float = 2.0) -> PriceList:
        seconds = np.maximum(needed.size / self.bytes_per_s, needed.flops / self._flops_rate(weight_bytes))
        return listed(sizes, seconds, Quality.EXTRAPOLATED)

    def dense(self, tokens: IntArray, matrix: Matrix, weight_bytes: float) -> PriceList:
        """Weights, inputs and outputs pass once."""
        return self._prices(tokens, work.product(tokens, matrix, weight_bytes), weight_bytes)

    def experts(self, model: Model, share: float) -> RooflineExperts:
        """Each distinct expert's weights are read once; every token computes in `experts_per_token` of them."""
        token, expert = work.experts(model, 1, 0), work.experts(model, 0, 1)
        reads, rate = share / self.bytes_per_s, self._flops_rate(model.expert_bytes) / share
        return RooflineExperts(expert.size * reads, token.size * reads, token.flops / rate)

    def attention(self, model: Model, share: float) -> RooflineAttention:
        """KV is read once per row; scores and values cost 4 flops per query head, pair and head dimension.

        MLA verifies in its latent, which is on every rank, and prefills by heads.
        """
        mla, heads = model.mla, model.heads * share
        if mla is None:
            kv_heads = model.kv_heads * share
            return self._bounds(lambda *sizes: work.attention(heads, kv_heads, model.head_dim, *sizes))
        rank, rope = mla.kv_lora_rank, mla.rope_dim
        prompts = self._bounds(lambda stored, *sizes: work.expanded_attention(model, mla, heads, stored, *sizes))
        return self._bounds(lambda *sizes: work.latent_attention(heads, rank, rope, *sizes), prompts)

    def _bounds(
        self, needed: Callable[[float, float, float], Work], prompts: RooflineAttention | None = None
    ) -> RooflineAttention:
        """Return the seconds of *needed*, which is linear in stored tokens, query positions and pairs."""
        units = [needed(1, 0, 0), needed(0, 1, 0), needed(0, 0, 1)]
        reads, computes = zip(*((w.size / self.bytes_per_s, w.flops / self.flops_per_s) for w in units), strict=True)
        return RooflineAttention(reads, computes, prompts)

    def norms(self, model: Model, tokens: IntArray) -> PriceList:
        """Two norms, the rotary embedding, and the activation of a dense feed-forward or a shared expert."""
        width = model.shared_intermediate or (model.intermediate if model.dense_layers else 0)
        size = 2 * work.norm(tokens, model.hidden).size + work.silu(tokens, width).size
        size = size + work.rope(tokens, model.heads, model.kv_heads, model.head_dim).size
        return self._prices(tokens, work.Works(size, 0.0 * tokens))

    def sampling(self, rows: IntArray, vocabulary: int) -> PriceList:
        """The passes over the logits."""
        return self._prices(rows, work.sampling(rows, vocabulary))


class RooflineExperts:
    """Bytes of the distinct experts and of the tokens, or flops, whichever takes longer.

    Seconds of reading a layer's expert, of reading and writing a token, and of computing a token.
    """

    def __init__(self, per_expert: float, per_token: float, computing: float) -> None:
        self._per_expert, self._per_token, self._computing = per_expert, per_token, computing

    def seconds(self, tokens: int, distinct: float) -> float:
        """Return the time of *tokens* tokens that load *distinct* experts."""
        return max(distinct * self._per_expert + tokens * self._per_token, tokens * self._computing)

    def price(self, tokens: int, distinct: float) -> Price:
        """See `Experts.price`."""
        return Price(self.seconds(tokens, distinct), Quality.EXTRAPOLATED) if tokens else FREE


class RooflineAttention:
    """Bytes of KV, queries and outputs, or scores, whichever takes longer; prompts may have an attention of their own.

    Seconds of a layer, of reading and of computing, per stored token, per query position and per query-key pair.
    """

    def __init__(
        self, reads: Sequence[float], computes: Sequence[float], prompts: RooflineAttention | None = None
    ) -> None:
        self._per_token, self._per_query, _ = reads
        self._expand, _, self._per_pair = computes
        self._prompts = prompts or self

    def verify(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """See `Attention.verify`."""
        read = (context + queries) * self._per_token + queries * self._per_query
        scores = pairs * self._per_pair + context * self._expand
        return read if read > scores else scores

    def prefill(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """See `Attention.prefill`."""
        return self._prompts.verify(rows, queries, context, pairs)

    @property
    def expand_s(self) -> float:
        """Seconds of computing keys and values of one stored token anew for a prompt chunk after it; 0 but for MLA."""
        return self._prompts._expand

    def quality(self, rows: int, context: int) -> Quality:
        """Return that nothing here was measured."""
        return Quality.EXTRAPOLATED
