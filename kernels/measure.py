"""Builds what a measurement runs: for one kernel at one point, the calls over rotated input sets, and the work they do.

Weights and caches are cold (rotated through more than the L2), activations warm, as they are in a step. Everything
takes a *device*, so that tests build and run each case on small shapes in the interpreter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from kernels import dense, latent_attention, moe, prefill_attention, quantized, rejection, routing, verify_attention
from kernels._triton import cdiv
from kernels.formats import BYTES, Format, Quantized, random_quantized
from kernels.layer import random_weight
from kernels.shapes import Shape
from kernels.timing import Call, Timing, sets_needed, time_calls

WEIGHT_SETS = 3


@dataclass
class Case:
    """One point of one kernel, ready to run."""

    kernel: str
    backend: str
    shape: Mapping[str, object]
    calls: list[Call]
    bytes: int
    flops: int
    cold_bytes: int = 0
    launches: int = 1
    at: Mapping[str, object] = field(default_factory=dict)

    def row(self, timing: Timing) -> dict[str, object]:
        """What a table keeps."""
        us = timing.us_p50
        point = {"tokens": None, "distinct": None, "context": None, "q_len": None, "batch": None, **self.at}
        return {
            "kernel": self.kernel, "backend": self.backend, "shape": dict(self.shape), **point, "us_p10": timing.us_p10,
            "us_p50": us, "us_p90": timing.us_p90, "bytes": self.bytes, "flops": self.flops,
            "tb_s": self.bytes / us / 1e6, "tflop_s": self.flops / us / 1e6, "calls": timing.calls,
            "replays": timing.replays, "sets": timing.sets,
        }  # fmt: skip

    def measure(self, replays: int = 10) -> dict[str, object]:
        """Time it; *replays* of a graph of 20 calls or more."""
        return self.row(time_calls(self.calls, self.cold_bytes, replays=replays, launches=self.launches))


def rotate(count: int, call: Callable[[int], object]) -> list[Call]:
    """Calls bound to the set numbers 0 .. count - 1."""
    return [lambda i=i: call(i) for i in range(count)]  # type: ignore[misc]


def activations(*size: int, device: str, sets: int = WEIGHT_SETS) -> list[Tensor]:
    """Random bf16 inputs, one tensor a set."""
    return [torch.empty(size, dtype=torch.bfloat16, device=device).normal_() for _ in range(sets)]


@lru_cache(maxsize=1)
def expert_weights(shape: Shape, device: str) -> list[tuple[moe.Experts, moe.Experts]]:
    """Three copies of a layer's experts; the cache holds one shape, so that models follow each other in memory."""
    s, inter = shape, shape.expert_intermediate
    if s.expert_format != "bf16":
        sizes = (s.experts, 2, inter, s.hidden), (s.experts, s.hidden, inter)
        made = [
            [random_quantized(*size, format=s.expert_format, device=device) for size in sizes]
            for _ in range(WEIGHT_SETS)
        ]
        return [(up, down) for up, down in made]
    return [
        (
            random_weight(s.experts, 2 * inter, s.hidden, device=device),
            random_weight(s.experts, s.hidden, inter, device=device),
        )
        for _ in range(WEIGHT_SETS)
    ]


def in_format(weights: Format) -> dict[str, str]:
    """What a format adds to a row's shape; rows of 16 bits say nothing."""
    return {} if weights == "bf16" else {"weights": weights}


def moe_bytes(shape: Shape, tokens: int, distinct: int) -> int:
    """What a layer's routed experts move."""
    s = shape
    return int(moe.bytes_moved(tokens, distinct, s.hidden, s.expert_intermediate, BYTES[s.expert_format]))


def moe_case(shape: Shape, tokens: int, law: str, distinct: int | None = None, device: str = "cuda") -> Case:
    """Top-k, alignment, both GEMMs, combination, from injected router logits; *distinct* is counted, not assumed."""
    s, generator = shape, torch.Generator(device=device).manual_seed(tokens)
    one = routing.inject_topk_ids(tokens, s.experts, s.topk, distinct=distinct, law=law, generator=generator)
    work = moe_bytes(s, tokens, routing.distinct_experts(one))
    count = sets_needed(work)
    ids = [one] + [
        routing.inject_topk_ids(tokens, s.experts, s.topk, distinct=distinct, law=law, generator=generator)
        for _ in range(count - 1)
    ]
    logits = [routing.inject_logits(i, s.experts) for i in ids]
    found = routing.distinct_experts(routing.top_k(logits[-1], s.topk)[1])
    if found != routing.distinct_experts(one):
        raise RuntimeError(f"the router names {found} experts, {routing.distinct_experts(one)} were injected")
    weights, xs = expert_weights(s, device), activations(tokens, s.hidden, device=device)

    def call(i: int) -> Tensor:
        return moe.moe(xs[i % len(xs)], logits[i], *weights[i % len(weights)], s.topk, s.renormalise)

    dims = {"experts": s.experts, "topk": s.topk, "hidden": s.hidden, "intermediate": s.expert_intermediate}
    dims |= in_format(s.expert_format)
    return Case(
        "moe", "triton", dims | {"renormalise": s.renormalise}, rotate(count, call), work,
        moe.flops(tokens, s.topk, s.hidden, s.expert_intermediate), work, 6,
        {"tokens": tokens, "distinct": found, "law": law},
    )  # fmt: skip


def gemm_case(tokens: int, inputs: int, outputs: int, weights: Format = "bf16", device: str = "cuda") -> Case:
    """A projection on cold weights, through cuBLAS, or the block-scaled product where they are fp8; under 512 KB on
    warm ones, since only latency counts there.
    """
    size = int(BYTES[weights] * inputs * outputs) if inputs * outputs >= 2**18 else 0
    count = sets_needed(size) if size else WEIGHT_SETS
    xs = activations(tokens, inputs, device=device)
    made: Sequence[Tensor] | list[Quantized]
    if weights == "fp8":
        made = [random_quantized(outputs, inputs, format=weights, device=device) for _ in range(count)]
        work, project = quantized.project_bytes(tokens, inputs, outputs), quantized.project
    else:
        made = random_weight(count, outputs, inputs, device=device)
        work, project = dense.project_bytes(tokens, inputs, outputs), dense.project
    return Case(
        "gemm", "triton" if weights == "fp8" else "cublas", {"inputs": inputs, "outputs": outputs} | in_format(weights),
        rotate(count, lambda i: project(xs[i % len(xs)], made[i])), int(work),
        dense.project_flops(tokens, inputs, outputs), size, 2 if weights == "fp8" else 1, {"tokens": tokens},
    )  # fmt: skip


def scattered_pages(count: int, batch: int, per: int, device: str) -> Tensor:
    """Block tables [count, batch, per] int32 that deal all pages out once, in random order."""
    return torch.randperm(count * batch * per, device=device).view(count, batch, per).to(torch.int32)


def attention_case(shape: Shape, batch: int, context: int, q_len: int, device: str = "cuda") -> Case:
    """q_len new tokens of each of *batch* sequences of *context* tokens in all, on cold pages in random order."""
    s, per = shape, cdiv(context, verify_attention.PAGE)
    work = verify_attention.bytes_moved([context] * batch, q_len, s.heads, s.kv_heads, s.head_dim)
    cold = 4 * batch * context * s.kv_heads * s.head_dim
    count = sets_needed(cold)
    pages = count * batch * per
    size = (pages, s.kv_heads, verify_attention.PAGE, s.head_dim)
    k, v = activations(*size, device=device, sets=2)
    tables = scattered_pages(count, batch, per, device)
    lens = torch.full((batch,), context, dtype=torch.int32, device=device)
    qs = activations(batch, q_len, s.heads, s.head_dim, device=device)
    return Case(
        "attention", "triton", {"heads": s.heads, "kv_heads": s.kv_heads, "head_dim": s.head_dim},
        rotate(count, lambda i: verify_attention.attend(qs[i % len(qs)], k, v, tables[i], lens, context)),
        work, verify_attention.flops([context] * batch, q_len, s.heads, s.head_dim), cold, 2,
        {"tokens": batch * q_len, "batch": batch, "context": context, "q_len": q_len},
    )  # fmt: skip


def latent_case(shape: Shape, batch: int, context: int, q_len: int, device: str = "cuda") -> Case:
    """As `attention_case`, absorbed over latents."""
    s, per = shape, cdiv(context, latent_attention.PAGE)
    dims = s.heads, s.latent_rank, s.rope_dim
    cold = 2 * batch * context * s.latent
    count = sets_needed(cold)
    (cache,) = activations(count * batch * per, latent_attention.PAGE, s.latent, device=device, sets=1)
    tables = scattered_pages(count, batch, per, device)
    lens = torch.full((batch,), context, dtype=torch.int32, device=device)
    qs = activations(batch, q_len, s.heads, s.latent, device=device)
    scale = s.head_dim**-0.5

    def call(i: int) -> Tensor:
        return latent_attention.attend(qs[i % len(qs)], cache, tables[i], lens, context, s.latent_rank, scale)

    return Case(
        "latent", "triton", {"heads": s.heads, "rank": s.latent_rank, "rope": s.rope_dim}, rotate(count, call),
        latent_attention.bytes_moved([context] * batch, q_len, *dims),
        latent_attention.flops([context] * batch, q_len, *dims), cold, 2,
        {"tokens": batch * q_len, "batch": batch, "context": context, "q_len": q_len},
    )  # fmt: skip


def prefill_case(shape: Shape, chunk: int, context: int, device: str = "cuda") -> Case:
    """One prompt's chunk over *context* earlier tokens; without context the keys have just been written."""
    s, kv_heads = shape, shape.heads if shape.latent_rank else shape.kv_heads
    cold = 4 * context * kv_heads * s.head_dim
    count = sets_needed(cold) if cold else WEIGHT_SETS
    ks, vs = (activations(kv_heads, context + chunk, s.head_dim, device=device, sets=count) for _ in range(2))
    qs = activations(s.heads, chunk, s.head_dim, device=device)
    return Case(
        "prefill", "sdpa", {"heads": s.heads, "kv_heads": kv_heads, "head_dim": s.head_dim},
        rotate(count, lambda i: prefill_attention.attend(qs[i % len(qs)], ks[i], vs[i])),
        prefill_attention.bytes_moved(context, chunk, s.heads, kv_heads, s.head_dim),
        prefill_attention.flops(context, chunk, s.heads, s.head_dim), cold, 1,
        {"tokens": chunk, "context": context + chunk, "q_len": chunk, "batch": 1},
    )  # fmt: skip


def rejection_case(vocab: int, batch: int, length: int, mode: str, device: str = "cuda") -> Case:
    """Rejection of *length* drafts per sequence, on logits that lm_head has just written: mode greedy or sample."""
    logits = activations(batch, length + 1, vocab, device=device)
    drafts = torch.randint(0, vocab, (batch, length), dtype=torch.int32, device=device)
    coins = torch.rand((batch, length + 1), device=device)
    best = [x[:, :length].argmax(-1).to(torch.int32) for x in logits]

    def call(i: int) -> rejection.Sampled:
        return rejection.sample(logits[i], best[i] if mode == "greedy" else drafts, None if mode == "greedy" else coins)

    return Case(
        "rejection", "triton", {"vocab": vocab, "mode": mode}, rotate(len(logits), call),
        rejection.bytes_moved(batch, length, vocab, greedy=mode == "greedy"), rejection.flops(batch, length, vocab), 0,
        3, {"tokens": batch * (length + 1), "batch": batch, "q_len": length + 1},
    )  # fmt: skip


def norm_case(tokens: int, hidden: int, device: str = "cuda") -> Case:
    """Residual + RMSNorm."""
    xs, weight = activations(tokens, hidden, device=device), random_weight(hidden, device=device)
    rest = [torch.zeros_like(x).normal_() for x in xs]
    return Case(
        "norm", "triton", {"hidden": hidden}, rotate(len(xs), lambda i: dense.add_rms_norm(xs[i], rest[i], weight)),
        dense.norm_bytes(tokens, hidden), 5 * tokens * hidden, 0, 1, {"tokens": tokens},
    )  # fmt: skip


def silu_case(tokens: int, inter: int, device: str = "cuda") -> Case:
    """SiLU times up, of a dense feed-forward."""
    xs = activations(tokens, 2 * inter, device=device)
    return Case(
        "silu_mul", "triton", {"intermediate": inter}, rotate(len(xs), lambda i: dense.silu_mul(xs[i])),
        dense.silu_mul_bytes(tokens, inter), 5 * tokens * inter, 0, 1, {"tokens": tokens},
    )  # fmt: skip
