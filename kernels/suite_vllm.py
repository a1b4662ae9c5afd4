"""The points worth measuring of an installed vLLM, in the order and under the keys of suite.py."""

from collections.abc import Iterator
from functools import partial

from kernels import measure_vllm, routing
from kernels.shapes import Shape
from kernels.suite import BETWEEN, POWERS, Families, Point, tier

TOKENS = tuple(sorted({*POWERS, *BETWEEN, 320, 448, 640, 896, 1280} - {3, 6, 12}))
BATCHES = (1, 16, 64, 256)
CONTEXTS = (256, 1024, 4096)
Q_LENS = (1, 3, 5)


def moe_points(s: Shape) -> Iterator[Point]:
    """Uniform routing over tokens; half the experts at the powers of two."""
    dims = f"e{s.experts}k{s.topk}h{s.hidden}i{s.expert_intermediate}"
    for tokens in TOKENS:
        uniform = min(max(s.topk, routing.uniform_distinct(tokens, s.experts, s.topk)), s.experts, tokens * s.topk)
        wanted = [(uniform, tier(tokens))]
        if tokens in POWERS and uniform // 2 > s.topk:
            wanted.append((uniform // 2, 2))
        for distinct, level in wanted:
            key = f"vllm/moe/{dims}/t{tokens}/d{distinct}"
            yield Point(key, level, "moe", partial(measure_vllm.moe_case, s, tokens, distinct))


def attention_points(s: Shape) -> Iterator[Point]:
    """Batch x context x q_len up to half a million cached tokens, and prefill chunks."""
    dims = f"q{s.heads}kv{s.kv_heads}d{s.head_dim}"
    sizes = [(b, c, q) for b in BATCHES for c in CONTEXTS for q in Q_LENS if b * c <= 2**19]
    sizes += [(1, context + chunk, chunk) for chunk in (128, 512, 2048, 8192) for context in (0, 4096)]
    for batch, context, q_len in sizes:
        key = f"vllm/attention/{dims}/b{batch}/c{context}/q{q_len}"
        yield Point(key, 0, "attention", partial(measure_vllm.attention_case, s, batch, context, q_len))


FAMILIES: Families = {"moe": moe_points, "attention": attention_points}
