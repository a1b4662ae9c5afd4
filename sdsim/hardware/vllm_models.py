"""Model configs as vLLM wants them: with the architecture's class, which the shapes that ship do not name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdsim.errors import ScenarioError
from sdsim.measurements.record import shipped_config
from sdsim.model_config import read_config
from sdsim.models import Model, load_model

ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen2-57b-a14b": ("Qwen2MoeForCausalLM", "qwen2_moe", {"norm_topk_prob": False}),
    "qwen3-30b-a3b": ("Qwen3MoeForCausalLM", "qwen3_moe", {"norm_topk_prob": True, "attention_bias": False}),
    "mixtral-8x7b": ("MixtralForCausalLM", "mixtral", {}),
    "qwen2.5-32b": ("Qwen2ForCausalLM", "qwen2", {}),
    "qwen2-0.5b": ("Qwen2ForCausalLM", "qwen2", {}),
    "qwen3-0.6b": ("Qwen3ForCausalLM", "qwen3", {"attention_bias": False}),
}
"""Class, model type and further keys of the models that fit one GPU."""
COMMON = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": None,
}
"""Keys that no time depends on."""


def vllm_config(name: str, folder: Path = Path()) -> dict[str, Any]:
    """Return the content of a config.json that vLLM can build *name* from; a path's own content if it is one.

    Raises ScenarioError for models whose architecture is not known here.
    """
    path = shipped_config(name) or name
    for place in (folder / path, folder / path / "config.json"):
        if place.is_file():
            return COMMON | read_config(place)
    model = load_model(name, folder)
    if model.name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ScenarioError(f"--on vllm: model {name!r}; allowed: {known}, or the path of a whole config.json")
    architecture, kind, more = ARCHITECTURES[model.name]
    return {"architectures": [architecture], "model_type": kind, **COMMON, **_shape(model), **more}


def _shape(model: Model) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "num_hidden_layers": model.layers,
        "hidden_size": model.hidden,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "intermediate_size": model.intermediate or model.expert_intermediate,
        "vocab_size": model.vocabulary,
        "tie_word_embeddings": model.tied_embeddings,
        "max_position_embeddings": model.max_positions,
        "use_sliding_window": False,
    }
    if model.is_moe:
        keys |= {
            "num_experts": model.experts,
            "num_local_experts": model.experts,
            "num_experts_per_tok": model.experts_per_token,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    if model.is_moe and model.intermediate:
        keys["moe_intermediate_size"] = model.expert_intermediate
    if model.shared_intermediate:
        keys["shared_expert_intermediate_size"] = model.shared_intermediate
    return keys
