"""Does a step equal the sum of its kernels? A captured stack of layers against its kernels measured one by one."""

from collections.abc import Iterator

from kernels import measure, measure_models
from kernels.measure import Case
from kernels.shapes import Shape


def parts(s: Shape, batch: int, q_len: int, context: int, device: str = "cuda") -> Iterator[tuple[int, Case]]:
    """How often each kernel runs in one layer, and its case: the recipe by which a simulator adds up a layer."""
    tokens = batch * q_len
    yield 2, measure.norm_case(tokens, s.hidden, device)
    yield 1, measure.gemm_case(tokens, s.hidden, s.qkv, device=device)
    yield 1, measure_models.rope_case(s, tokens, device)
    yield 1, measure.attention_case(s, batch, context, q_len, device)
    yield 1, measure.gemm_case(tokens, s.heads * s.head_dim, s.hidden, device=device)
    width = s.shared_intermediate or s.intermediate
    if width:
        yield 1, measure.gemm_case(tokens, s.hidden, 2 * width, device=device)
        yield 1, measure.silu_case(tokens, width, device)
        yield 1, measure.gemm_case(tokens, width, s.hidden, device=device)
    if s.shared_gate:
        yield 1, measure.gemm_case(tokens, s.hidden, 1, device=device)
    if s.experts:
        yield 1, measure.gemm_case(tokens, s.hidden, s.experts, device=device)
        yield 1, measure.moe_case(s, tokens, "uniform", device=device)


def compose(s: Shape, layers: int, batch: int, q_len: int, context: int) -> dict[str, object]:
    """Microseconds of the stack and of the sum of its kernels, and the error of the sum: sum / stack - 1."""
    stack = measure_models.stack_case(s, layers, batch, q_len, context).measure()
    total = 0.0
    detail: dict[str, float] = {}
    for count, case in parts(s, batch, q_len, context):
        us = float(str(case.measure()["us_p50"]))
        name = case.kernel + "".join(f" {v}" for k, v in case.shape.items() if k in ("inputs", "outputs"))
        detail[name] = detail.get(name, 0.0) + count * us
        total += count * us * layers
    whole = float(str(stack["us_p50"]))
    return {
        "model": s.name, "layers": layers, "batch": batch, "q_len": q_len, "context": context, "stack_us": whole,
        "sum_us": total, "error": total / whole - 1, "layer_us": detail,
    }  # fmt: skip
