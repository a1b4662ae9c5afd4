"""Replicas: what fits into their memory."""

from __future__ import annotations

from sdsim.drafts import Draft
from sdsim.errors import CapacityError
from sdsim.gpus import Gpu
from sdsim.models import Model
from sdsim.parallel import Layout

LOGIT_BYTES = 4.0
ACTIVATION_BYTES = 2.0


def kv_blocks(
    target: Model,
    draft: Draft | None,
    gpu: Gpu,
    layout: Layout,
    memory_fraction: float,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    longest_draft: int,
    block_size: int,
    taken_bytes: float = 0.0,
) -> int:
    """Return the KV blocks that fit beside weights, logits and activations of a replica of GPUs laid out so.

    Logits: max_num_seqs x (longest_draft + 1) x vocabulary fp32 values. Activations: max_num_batched_tokens rows of the
    residual stream and of the widest FFN. A block holds *block_size* tokens of the target's and the drafter's KV. Each
    data-parallel group has a drafter. *taken_bytes* are what each GPU holds besides.
    """
    per_token = layout.kv_bytes_per_token(target) + (draft.kv_bytes_per_token if draft else 0)
    logits = max_num_seqs * (longest_draft + 1) * target.vocabulary * LOGIT_BYTES
    widest = max(target.intermediate, target.experts_per_token * target.expert_intermediate, target.shared_intermediate)
    activations = max_num_batched_tokens * (2 * target.hidden + 2 * widest) * ACTIVATION_BYTES
    weights = layout.weights_bytes(target) + (draft.weights_bytes * layout.data if draft else 0)
    have = gpu.memory_bytes * layout.gpus * memory_fraction - taken_bytes * layout.gpus
    blocks = int((have - weights - logits - activations) // (block_size * per_token))
    if blocks < 1:
        needs = (weights + logits + activations) / 1e9
        message = (
            f"model: {target.name} needs {needs:.1f} GB for weights, logits and activations, {layout.gpus} x "
            f"{gpu.name} at memory_fraction {memory_fraction} has {have / 1e9:.1f} GB; use more GPUs with "
            "replica.tensor_parallel or expert_parallel, a smaller model, or fewer max_num_seqs"
        )
        raise CapacityError(message)
    return blocks
