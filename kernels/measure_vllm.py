"""Cases for the kernels of an installed vLLM: its fused MoE layer and FlashAttention 3 over pages.

Called as vLLM 0.22 calls them in a captured decode step: the MoE layer with its own top-k and tuned tiles, attention
with the scheduler's metadata computed once a step and its number of splits bounded, as graphs require.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from kernels import moe, prefill_attention, routing, verify_attention
from kernels._triton import cdiv
from kernels.measure import Case, activations, expert_weights, moe_bytes, rotate
from kernels.shapes import Shape
from kernels.timing import sets_needed

PAGE = 16
GRAPH_SPLITS = 32  # flash_attn_max_num_splits_for_cuda_graph
CAPTURED_TOKENS = 512  # above it a step runs without a graph, and the splits are the kernel's own choice


def configured() -> AbstractContextManager[object]:
    """A default configuration, without which vLLM's layers refuse to run."""
    from vllm.config import VllmConfig, set_current_vllm_config

    return set_current_vllm_config(VllmConfig())  # type: ignore[no-any-return]


def backend() -> str:
    """`vllm-` and the installed version: the backend of the rows."""
    import vllm

    return f"vllm-{vllm.__version__}"


def moe_case(shape: Shape, tokens: int, distinct: int, device: str = "cuda") -> Case:
    """Top-k and fused experts on injected logits that name *distinct* experts."""
    from vllm.model_executor.layers.fused_moe import fused_experts, fused_topk

    s, generator = shape, torch.Generator(device=device).manual_seed(tokens)
    work = moe_bytes(s, tokens, distinct)
    count = sets_needed(work)
    ids = [
        routing.inject_topk_ids(tokens, s.experts, s.topk, distinct=distinct, law="uniform", generator=generator)
        for _ in range(count)
    ]
    logits = [routing.inject_logits(i, s.experts) for i in ids]
    weights, xs = expert_weights(s, device), activations(tokens, s.hidden, device=device)

    def call(i: int) -> Tensor:
        x = xs[i % len(xs)]
        chosen = fused_topk(x, logits[i], s.topk, s.renormalise)
        return fused_experts(x, *weights[i % len(weights)], chosen[0], chosen[1])  # type: ignore[no-any-return]

    dims = {"experts": s.experts, "topk": s.topk, "hidden": s.hidden, "intermediate": s.expert_intermediate}
    return Case(
        "moe", backend(), dims | {"renormalise": s.renormalise}, rotate(count, call), work,
        moe.flops(tokens, s.topk, s.hidden, s.expert_intermediate), work, 7,
        {"tokens": tokens, "distinct": distinct, "law": "uniform"},
    )  # fmt: skip


def _schedule(q: Tensor, kv_heads: int, starts: Tensor, lens: Tensor, q_len: int, context: int) -> tuple[object, int]:
    """The scheduler's metadata of one step, and the bound on its splits."""
    from vllm.vllm_flash_attn import get_scheduler_metadata

    splits = GRAPH_SPLITS if q.shape[0] <= CAPTURED_TOKENS else 0
    metadata = get_scheduler_metadata(
        batch_size=len(lens), max_seqlen_q=q_len, max_seqlen_k=context, num_heads_q=q.shape[1], num_heads_kv=kv_heads,
        headdim=q.shape[2], cache_seqlens=lens, qkv_dtype=q.dtype, cu_seqlens_q=starts, page_size=PAGE, causal=True,
        num_splits=splits,
    )  # fmt: skip
    return metadata, splits


def attention_case(shape: Shape, batch: int, context: int, q_len: int, device: str = "cuda") -> Case:
    """q_len new tokens of each of *batch* sequences of *context* tokens in all, on cold pages in random order."""
    from vllm.vllm_flash_attn import flash_attn_varlen_func

    s, per = shape, cdiv(context, PAGE)
    cold = 4 * batch * context * s.kv_heads * s.head_dim
    count = sets_needed(cold)
    pages = count * batch * per
    k, v = activations(pages, PAGE, s.kv_heads, s.head_dim, device=device, sets=2)
    tables = torch.randperm(pages, device=device).view(count, batch, per).to(torch.int32)
    lens = torch.full((batch,), context, dtype=torch.int32, device=device)
    starts = torch.arange(batch + 1, dtype=torch.int32, device=device) * q_len
    qs = activations(batch * q_len, s.heads, s.head_dim, device=device)
    outs = [torch.empty_like(q) for q in qs]
    metadata, splits = _schedule(qs[0], s.kv_heads, starts, lens, q_len, context)

    def call(i: int) -> Tensor:
        return flash_attn_varlen_func(  # type: ignore[no-any-return]
            q=qs[i % len(qs)], k=k, v=v, out=outs[i % len(outs)], cu_seqlens_q=starts, max_seqlen_q=q_len,
            seqused_k=lens, max_seqlen_k=context, causal=True, block_table=tables[i], scheduler_metadata=metadata,
            fa_version=3, num_splits=splits,
        )  # fmt: skip

    prefill = batch == 1 and q_len >= 64
    dims = {"heads": s.heads, "kv_heads": s.kv_heads, "head_dim": s.head_dim}
    if prefill:
        work = prefill_attention.bytes_moved(context - q_len, q_len, s.heads, s.kv_heads, s.head_dim)
        flops = prefill_attention.flops(context - q_len, q_len, s.heads, s.head_dim)
    else:
        work = verify_attention.bytes_moved([context] * batch, q_len, s.heads, s.kv_heads, s.head_dim)
        flops = verify_attention.flops([context] * batch, q_len, s.heads, s.head_dim)
    return Case(
        "prefill" if prefill else "attention", backend(), dims, rotate(count, call), work, flops, cold, 2,
        {"tokens": batch * q_len, "batch": batch, "context": context, "q_len": q_len},
    )  # fmt: skip
