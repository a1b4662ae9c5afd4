"""The points worth measuring for a list of models, the most informative first, and the loop that measures them until
time is up.

Tier 0 is a coarse grid of everything, tier 1 the powers of two, tier 2 what lies between and unusual numbers of
distinct experts. Points are keyed by kernel and dimensions, not by model: a matrix that two models share is measured
once.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from kernels import measure, measure_models, routing
from kernels.formats import Format
from kernels.measure import Case
from kernels.products import products
from kernels.shapes import SHAPES, Shape

COARSE = (1, 4, 16, 64, 256, 1024, 8192)
BETWEEN = (3, 6, 12, 24, 48, 96, 192, 384, 768, 1536, 3072, 6144)
POWERS = tuple(2**i for i in range(14))
CAPTURED = (24, *range(40, 257, 16), 120, 192, 240, *range(288, 513, 32), 640, 768)
BATCHES = (1, 4, 16, 64, 256)
BATCHES_BETWEEN = (8, 32, 48, 96, 128, 192)
CONTEXTS = (256, 1024, 4096, 16384, 32768)
Q_LENS = (1, 2, 3, 5, 9)
STACKS = ((1, 1), (8, 1), (8, 5), (64, 1), (64, 5))  # batch, q_len of the composition check
STACK_LAYERS, STACK_CONTEXT = 8, 1024


@dataclass(frozen=True)
class Point:
    """One measurement to make; *key* is stable across runs and versions."""

    key: str
    tier: int
    kernel: str
    build: Callable[[], Case]

    def measure(self, replays: int = 10) -> dict[str, object]:
        """Build, time, and drop it."""
        return {"key": self.key} | self.build().measure(replays)


def tier(tokens: int) -> int:
    """0 for the coarse grid, 1 for the powers of two, 2 for the rest."""
    return 0 if tokens in COARSE else 1 if tokens in POWERS else 2


def named(weights: Format) -> str:
    """What a format adds to a key."""
    return "" if weights == "bf16" else f"-{weights}"


def moe_points(s: Shape) -> Iterator[Point]:
    """Tokens x routing: uniform, balanced (what peers publish), and half the experts that uniform routing touches."""
    dims = f"e{s.experts}k{s.topk}h{s.hidden}i{s.expert_intermediate}{named(s.expert_format)}"
    for tokens in sorted(POWERS + BETWEEN):
        uniform = max(s.topk, routing.uniform_distinct(tokens, s.experts, s.topk))
        full = min(s.experts, tokens * s.topk)
        wanted = [("uniform", min(uniform, full), tier(tokens))]
        if tokens in POWERS:
            wanted.append(("balanced", full, tier(tokens)))
        if tokens in POWERS and uniform // 2 > s.topk:
            wanted.append(("uniform", uniform // 2, 2))
        for law, distinct, level in wanted:
            yield Point(
                f"moe/{dims}/t{tokens}/d{distinct}/{law}", level, "moe",
                partial(measure.moe_case, s, tokens, law, distinct),
            )  # fmt: skip


def gemm_points(s: Shape) -> Iterator[Point]:
    """Every projection at the powers of two and at counts that engines capture between: the library's choice of tiles
    steps up and down by a tenth there.
    """
    for product in products(s):
        for tokens in sorted({*POWERS, *CAPTURED}):
            if tokens <= product.most:
                yield Point(
                    f"gemm{named(product.weights)}/{product.inputs}x{product.outputs}/t{tokens}", tier(tokens), "gemm",
                    partial(measure.gemm_case, tokens, product.inputs, product.outputs, product.weights),
                )  # fmt: skip


def attention_points(s: Shape) -> Iterator[Point]:
    """Batch x context x q_len up to a million cached tokens, and prefill chunks."""
    dims = f"q{s.heads}kv{s.kv_heads}d{s.head_dim}"
    for batch in BATCHES:
        for context in CONTEXTS:
            for q_len in Q_LENS if batch in (1, 16, 64) else (1, 5, 9):
                if batch * context <= 2**20:
                    level = 0 if q_len in (1, 5) and context in (1024, 16384) else 1 if context != 32768 else 2
                    yield Point(
                        f"attention/{dims}/b{batch}/c{context}/q{q_len}", level, "attention",
                        partial(measure.attention_case, s, batch, context, q_len),
                    )  # fmt: skip
    for batch, context, q_len in itertools.product(BATCHES_BETWEEN, CONTEXTS[:3], Q_LENS):
        yield Point(  # how many waves of programs there are steps up with the batch
            f"attention/{dims}/b{batch}/c{context}/q{q_len}", 2, "attention",
            partial(measure.attention_case, s, batch, context, q_len),
        )  # fmt: skip
    yield from prefill_points(s, s.kv_heads)


def prefill_points(s: Shape, kv_heads: int) -> Iterator[Point]:
    """Chunks of a prompt; MLA expands the latents to keys and values of every head for them."""
    dims = f"q{s.heads}kv{kv_heads}d{s.head_dim}"
    for chunk in (128, 512, 2048, 8192):
        for context in (0, 4096, 16384):
            yield Point(
                f"prefill/{dims}/n{chunk}/c{context}", 0 if chunk == 2048 else 1, "prefill",
                partial(measure.prefill_case, s, chunk, context),
            )  # fmt: skip


def latent_points(s: Shape) -> Iterator[Point]:
    """Batch x context x q_len up to a million cached tokens, and prefill chunks."""
    dims = f"q{s.heads}r{s.latent_rank}p{s.rope_dim}"
    for batch in BATCHES:
        for context in CONTEXTS:
            for q_len in range(1, 10) if batch in (1, 16, 64) and context in (1024, 4096) else Q_LENS:
                if batch * context <= 2**20:
                    level = 0 if q_len in (1, 5) and context in (1024, 4096, 16384) else 1 if q_len in Q_LENS else 2
                    yield Point(
                        f"latent/{dims}/b{batch}/c{context}/q{q_len}", level, "latent",
                        partial(measure.latent_case, s, batch, context, q_len),
                    )  # fmt: skip
    yield from prefill_points(s, s.heads)


def small_points(s: Shape) -> Iterator[Point]:
    """Norm, rotary embedding and SiLU: a few microseconds each, twice or once a layer."""
    width = s.shared_intermediate or s.intermediate
    by_heads = not s.latent_rank  # MLA rotates 64 numbers of a query and one key: within its projections' time
    for tokens in (1, 8, 64, 256, 512, 1024, 2048, 4096, 8192):
        level = 0 if tokens in (1, 64, 1024) else 1
        yield Point(f"norm/h{s.hidden}/t{tokens}", level, "norm", partial(measure.norm_case, tokens, s.hidden))
        rope = f"rope/q{s.heads}kv{s.kv_heads}d{s.head_dim}n{int(s.qk_norm)}/t{tokens}"
        if by_heads:
            yield Point(rope, level, "rope", partial(measure_models.rope_case, s, tokens))
        if width:
            yield Point(f"silu_mul/i{width}/t{tokens}", level, "silu_mul", partial(measure.silu_case, tokens, width))


def rejection_points(s: Shape) -> Iterator[Point]:
    """Batch x draft length, greedy and sampled; a head's vocabulary is verified by its target."""
    if s.parts[0] == "eagle":
        return
    for batch in BATCHES:
        for length in (1, 2, 4, 8):
            for mode in ("sample", "greedy"):
                yield Point(
                    f"rejection/v{s.vocab}/b{batch}/k{length}/{mode}", 0 if length == 4 else 1, "rejection",
                    partial(measure.rejection_case, s.vocab, batch, length, mode),
                )  # fmt: skip


def draft_points(s: Shape) -> Iterator[Point]:
    """A draft's pass by batch and q_len, and whole proposals in one graph."""
    kernel = "eagle" if s.layers == 1 else "draft"
    short = [(b, q, 1024, 1) for b in (1, 2, 4, 8, 16, 32, 64, 128, 256) for q in (1, 5)]
    for batch, q_len, context, steps in (*short, (1, 1, 8192, 1), (64, 1, 4096, 1), (1, 5, 1024, 4), (16, 5, 1024, 4)):
        yield Point(
            f"{kernel}/{s.name}/b{batch}/q{q_len}/c{context}/k{steps}", int(batch not in BATCHES or steps > 1), kernel,
            partial(measure_models.draft_case, s, batch, q_len, context, steps),
        )  # fmt: skip


def stack_points(s: Shape) -> Iterator[Point]:
    """Captured layers, to be compared with the sum of their kernels."""
    for batch, q_len in STACKS:
        yield Point(
            f"layers/{s.name}/n{STACK_LAYERS}/b{batch}/q{q_len}/c{STACK_CONTEXT}", 1, "layers",
            partial(measure_models.stack_case, s, STACK_LAYERS, batch, q_len, STACK_CONTEXT),
        )  # fmt: skip


Families = Mapping[str, Callable[[Shape], Iterator[Point]]]
FAMILIES: Families = {
    "moe": moe_points, "dense": gemm_points, "attention": attention_points, "latent": latent_points,
    "norms": small_points,
    "layers": stack_points, "draft": draft_points, "eagle": draft_points, "rejection": rejection_points,
}  # fmt: skip


def points(
    models: Iterable[str | Shape], kernels: Collection[str] = (), families: Families | None = None
) -> list[Point]:
    """Every point of *models*, each key once, tier by tier, a model's and family's points together; *kernels* keeps
    some. *families* are the project's own unless given.
    """
    families = families or FAMILIES
    found: dict[str, Point] = {}
    for model in models:
        s = SHAPES[model] if isinstance(model, str) else model
        for make in (families[part] for part in (*s.parts, "rejection") if part in families):
            for point in make(s):
                if not kernels or point.kernel in kernels:
                    found.setdefault(point.key, point)
    return sorted(found.values(), key=lambda point: point.tier)


def run(
    todo: Iterable[Point], known: Collection[str] = (), seconds: float = 600.0, replays: int = 10
) -> Iterator[dict[str, object]]:
    """Measure what of *todo* is not *known* until *seconds* have passed, one row at a time; stop and resume with the
    keys of the rows.
    """
    end = time.monotonic() + seconds
    for point in todo:
        if point.key in known:
            continue
        if time.monotonic() > end:
            return
        try:
            yield point.measure(replays)
        except torch.OutOfMemoryError as error:
            measure.expert_weights.cache_clear()
            yield {"key": point.key, "kernel": point.kernel, "error": str(error)[:200]}


if __name__ == "__main__":
    budget = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    for row in run(points(sys.argv[2:] or list(SHAPES)), seconds=budget):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
