"""The kernels' view of a model, and which models the kernels can run whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kernels.formats import CHUNK, Format
from kernels.shapes import SHAPES, Shape
from sdsim.errors import ScenarioError
from sdsim.model_config import weight_format
from sdsim.models import Model


def kernel_shape(model: Model) -> Shape:
    """Return *model*'s shape; biases, query norms and router weights as in the model of that name, if it is known."""
    known = SHAPES.get(model.name, Shape("", 0, 0, 0, 0, 0, 0))
    return Shape(
        name=model.name,
        hidden=model.hidden,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        vocab=model.vocabulary,
        intermediate=model.intermediate if model.dense_layers else 0,
        experts=model.experts,
        topk=model.experts_per_token,
        expert_intermediate=model.expert_intermediate,
        shared_intermediate=model.shared_intermediate,
        renormalise=known.renormalise,
        shared_gate=bool(model.shared_intermediate),
        qk_norm=known.qk_norm,
        qkv_bias=known.qkv_bias,
        tied=model.tied_embeddings,
        latent_rank=model.mla.kv_lora_rank if model.mla else 0,
        rope_dim=model.mla.rope_dim if model.mla else 0,
        query_rank=model.mla.q_lora_rank if model.mla else 0,
        value_dim=model.mla.v_dim if model.mla else 0,
        expert_format=_format(model.expert_bytes),
        dense_format=_format(model.weight_bytes),
    )


def _format(width: float) -> Format:
    """Return the kernels' format for weights of *width* bytes; they compute 32-bit models in bf16."""
    found = weight_format(width)
    return "bf16" if found == "fp32" else found


def whole_shape(model: Model, layers: int | None = None) -> Shape:
    """Return the shape of a model that the kernels run whole, of its first *layers* layers if given.

    Raises ScenarioError for one that they cannot.
    """
    problems = [f"model: {model.name} {found}" for found in _missing(model)]
    if layers is not None and not 1 <= layers <= model.layers:
        problems.append(f"layers: {layers}; allowed: 1 to {model.layers}, the layers of {model.name}")
    if problems:
        raise ScenarioError(*problems)
    return replace(kernel_shape(model), layers=layers or model.layers)


def _missing(model: Model) -> Iterator[str]:
    """Yield what *model* needs and the kernels lack."""
    runs = "allowed on the GPU: %s; name another model, or simulate this one"
    if model.mla is not None:
        yield "has latent attention; " + runs % "attention by heads"
    if model.sliding_layers:
        yield f"has {model.sliding_layers} layers of sliding attention; " + runs % "full attention"
    if (model.weight_bytes, model.expert_bytes) != (2.0, 2.0):
        yield "is quantized; " + runs % "16-bit weights"
    if 0 < model.dense_layers < model.layers:
        yield f"mixes {model.dense_layers} dense and {model.moe_layers} MoE layers; " + runs % "layers of one kind"
    if model.head_dim & (model.head_dim - 1):
        yield f"has heads of {model.head_dim}; " + runs % "a power of two"


def tensor_shard(s: Shape, ranks: int) -> Shape:
    """Return what one of *ranks* tensor-parallel GPUs holds of a layer; raises ScenarioError for what divides badly."""
    sizes = {name: getattr(s, name) for name in ("heads", "kv_heads", "vocab")}
    widths = {name: getattr(s, name) for name in ("intermediate", "expert_intermediate", "shared_intermediate")}
    odd = [f"{name} {size}" for name, size in (sizes | widths).items() if size % ranks]
    if s.expert_format == "mxfp4" and s.expert_intermediate // ranks % CHUNK:
        odd.append(f"4-bit experts {s.expert_intermediate} wide, in chunks of {CHUNK}")
    if odd:
        raise ScenarioError(f"model: {s.name} has {', '.join(odd)}; allowed: multiples of {ranks}; name another model")
    return replace(s, **{name: size // ranks for name, size in (sizes | widths).items()})


def expert_shard(s: Shape, ranks: int) -> Shape:
    """Return the routed experts of one of *ranks* GPUs, of which every token uses its even part."""
    if not s.experts or s.experts % ranks or s.topk % ranks:
        found = f"{s.experts} experts, {s.topk} a token"
        raise ScenarioError(f"model: {s.name} has {found}; allowed: multiples of {ranks}; name another model")
    return replace(s, experts=s.experts // ranks, topk=s.topk // ranks)
