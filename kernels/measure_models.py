"""Cases that need a cache or a model: rotary embedding, a draft's or EAGLE head's pass, a stack of layers."""

import torch
from torch import Tensor

from kernels import moe, rope, routing, verify_attention
from kernels.draft import Decoder, EagleHead
from kernels.layer import Cache, Rows, Stack, random_weight
from kernels.measure import WEIGHT_SETS, Case, activations, moe_bytes, rotate
from kernels.shapes import Shape


def rope_case(shape: Shape, tokens: int, device: str = "cuda") -> Case:
    """Query and key norms where the model has them, rotation, cache write: one new token of each sequence."""
    s, cache = shape, Cache(tokens, 64, shape.head_dim, device)
    qkvs = activations(tokens, s.qkv, device=device)
    k, v = activations(cache.pages, s.kv_heads, verify_attention.PAGE, s.head_dim, device=device, sets=2)
    norms = (random_weight(s.head_dim, device=device), random_weight(s.head_dim, device=device)) if s.qk_norm else None
    lens = torch.full((tokens,), 64, dtype=torch.int32, device=device)

    def call(i: int) -> Tensor:
        return rope.rope_and_cache(qkvs[i], cache.angles, cache.block_table, lens, k, v, 1, s.heads, norms)

    dims = {"heads": s.heads, "kv_heads": s.kv_heads, "head_dim": s.head_dim, "qk_norm": s.qk_norm}
    work = rope.rope_bytes(tokens, s.heads, s.kv_heads, s.head_dim)
    return Case("rope", "triton", dims, rotate(len(qkvs), call), work, 3 * work, 0, 1, {"tokens": tokens})


def parameters(shape: Shape) -> int:
    """Weights that a dense decoder's pass reads, embedding table excluded and lm_head included."""
    s = shape
    layer = s.hidden * (s.qkv + s.heads * s.head_dim + 3 * s.intermediate)
    return s.layers * layer + s.vocab * s.hidden


def draft_case(shape: Shape, batch: int, q_len: int, context: int, steps: int = 1, device: str = "cuda") -> Case:
    """`propose`: one pass over q_len tokens a sequence, then steps - 1 over one; greedy tokens included.

    The three input sets share one set of weights: a pass reads a gigabyte of them, which evicts itself from L2.
    """
    s = shape
    head = s.layers == 1
    cache = Cache(batch, context + steps, s.head_dim, device)
    decoder = (EagleHead if head else Decoder)(s, cache.pages, cache.length, device=device)
    tokens = [torch.randint(0, s.vocab, (batch, q_len), dtype=torch.int32, device=device) for _ in range(WEIGHT_SETS)]
    hidden = activations(batch, q_len, s.hidden, device=device)
    lens = torch.full((batch,), context, dtype=torch.int32, device=device)
    rows = [Rows(q_len, cache.block_table, lens, cache.length)]
    weights = 2 * (parameters(s) + (2 * s.hidden**2 if head else 0))
    kv = s.layers * verify_attention.bytes_moved([context] * batch, q_len, s.heads, s.kv_heads, s.head_dim)
    passed = batch * (q_len + steps - 1)
    return Case(
        "eagle" if head else "draft", "triton+cublas", {"model": s.name},
        rotate(WEIGHT_SETS, lambda i: decoder.propose(tokens[i], rows, steps, hidden[i] if head else None)),
        steps * (weights + kv), 2 * passed * parameters(s), weights, steps * (13 * s.layers + 8),
        {"tokens": batch * q_len, "batch": batch, "context": context, "q_len": q_len, "steps": steps},
    )  # fmt: skip


def stack_case(shape: Shape, layers: int, batch: int, q_len: int, context: int, device: str = "cuda") -> Case:
    """*layers* captured decoder layers; a MoE's expert ids are injected under the uniform law."""
    s, tokens = shape, batch * q_len
    stack = Stack(s, layers, batch, q_len, context, device=device)
    projections = s.hidden * (s.qkv + s.heads * s.head_dim + 3 * (s.shared_intermediate or s.intermediate))
    weights, flops, distinct = 2 * projections, 2 * tokens * projections, 0
    if s.experts:
        generator = torch.Generator(device=device).manual_seed(0)
        for layer in stack.layers:
            layer.expert_ids = routing.inject_topk_ids(tokens, s.experts, s.topk, generator=generator)
            distinct = routing.distinct_experts(layer.expert_ids)
        weights += moe_bytes(s, tokens, distinct)
        flops += moe.flops(tokens, s.topk, s.hidden, s.expert_intermediate)
    kv = verify_attention.bytes_moved([context] * batch, q_len, s.heads, s.kv_heads, s.head_dim)
    return Case(
        "layers", "triton+cublas", {"model": s.name, "layers": layers}, rotate(WEIGHT_SETS, lambda _: stack()),
        layers * (weights + kv), layers * flops, layers * weights, 16 * layers,
        {"tokens": tokens, "distinct": distinct or None, "batch": batch, "context": context, "q_len": q_len},
    )  # fmt: skip
