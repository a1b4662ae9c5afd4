"""Decoder layers whose GPUs share the work: tensor parallel, and expert parallel with data-parallel attention.

Weights and expert ids are random, as in `kernels.layer`; each rank makes its own part.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from kernels import configs, dense
from kernels.layer import ROPE_BASE, Layer, Pass, Rows, random_weight
from kernels.moe import experts_mlp
from kernels.rope import rope_table
from kernels.routing import top_k
from kernels.shapes import Shape
from kernels.verify_attention import PAGE


class TensorLayer(Layer):  # type: ignore[misc]
    """A layer of a tensor shard: partial sums after attention and feed-forward are added up over the ranks."""

    def __call__(self, p: Pass) -> None:
        """See `Layer.__call__`."""
        y = dense.add_rms_norm(p.x, p.residual, self.norm_1)
        p.residual = p.x if p.residual is None else p.residual
        o = dense.project(self.attention(dense.project(y, self.qkv, self.bias), p), self.o)
        dist.all_reduce(o)
        p.x = self.feed_forward(dense.add_rms_norm(o, p.residual, self.norm_2))
        dist.all_reduce(p.x)


class ExpertLayer(Layer):  # type: ignore[misc]
    """A layer whose experts are spread: the tokens of all ranks are gathered, each rank adds what its experts give.

    The injected `expert_ids` [tokens of all ranks, k / ranks] are this rank's experts, so that every token has as many
    on each rank.
    """

    def feed_forward(self, y: Tensor) -> Tensor:
        """See `Layer.feed_forward`."""
        s, ranks = self.shape, dist.get_world_size()
        tokens = y.new_empty((len(y) * ranks, y.shape[1]))
        dist.all_gather_into_tensor(tokens, y)
        weights, ids = top_k(dense.project(tokens, self.router), s.topk, s.renormalise)
        if self.expert_ids is not None:
            ids = self.expert_ids[: len(tokens)]
        # as many tokens an expert as in the whole layer, whose configurations were tuned
        whole = s.experts * ranks, s.topk * ranks, s.hidden, s.expert_intermediate
        config = configs.moe(configs.MoeKey(*whole), len(tokens))
        parts = experts_mlp(tokens, self.experts_gate_up, self.experts_down, weights, ids, config=config)
        mine = torch.empty_like(y)
        dist.reduce_scatter_tensor(mine, parts)
        return mine


class ParallelModel:
    """Layers, final norm and head over *batch* sequences of this rank, each with *length* tokens at most.

    *gathers*: the head is divided over the ranks, and its logits are gathered.
    """

    def __init__(
        self, kind: type[Layer], shape: Shape, batch: int, length: int, gathers: bool, dtype: torch.dtype, device: str
    ) -> None:
        per = -(-length // PAGE)
        self.table = torch.randperm(batch * per, device=device).view(batch, per).to(torch.int32)
        self.angles = rope_table(length, shape.head_dim, ROPE_BASE, device)
        self.layers = [kind(shape, batch * per, dtype, device) for _ in range(shape.layers)]
        self.norm = 1 + random_weight(shape.hidden, dtype=dtype, device=device)
        self.head = random_weight(shape.vocab, shape.hidden, dtype=dtype, device=device)
        self.gathers = gathers

    def step(self, x: Tensor, batch: int, q_len: int, context: int) -> Tensor:
        """Return the logits of x [batch x q_len, H], the last positions of *batch* sequences of *context* tokens."""
        lens = torch.full((batch,), context, dtype=torch.int32, device=x.device)
        p = Pass([Rows(q_len, self.table[:batch].contiguous(), lens, context)], self.angles, x)
        for layer in self.layers:
            layer(p)
        logits = dense.project(dense.add_rms_norm(p.x, p.residual, self.norm), self.head)
        if not self.gathers:
            return logits
        parts = logits.new_empty((dist.get_world_size() * len(logits), logits.shape[1]))
        dist.all_gather_into_tensor(parts, logits)
        return parts
