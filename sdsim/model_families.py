"""What families of models call things in a config.json, what they leave unsaid, and which cannot be read."""

from __future__ import annotations

from typing import Any

UNREADABLE = {
    "attn_layer_period", "attn_type_list", "full_attention_interval", "hybrid_override_pattern", "index_topk",
    "layers_block_type", "linear_attn_config", "linear_num_value_heads", "mamba_d_state",
}  # fmt: skip
"""Keys of linear and sparse attention and of state-space layers: refused, since nobody would see them read wrongly."""
UNGATED = {"arcee", "gpt_neox", "nemotron", "persimmon", "phi", "starcoder2"}
"""Families whose FFNs have two matrices, and no key that says so."""
SECTIONS = {"text_config": "the language model", "attn_config": "attention", "ffn_config": "the FFN"}
"""Objects inside a config.json with further keys."""
RENAMED = {
    "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "kv_n_heads": "num_key_value_heads", "max_seq_len": "max_position_embeddings",
    "ffn_hidden_size": "intermediate_size", "moe_top_k": "num_experts_per_tok",
}  # fmt: skip
"""DBRX's names."""
UNSAID: dict[str, dict[str, Any]] = {
    "cohere": {"tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"tie_word_embeddings": True, "sliding_window_pattern": 2},
    "gemma3_text": {
        "tie_word_embeddings": True, "sliding_window_pattern": 6, "vocab_size": 262_208, "head_dim": 256,
        "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 131_072,
    },
}  # fmt: skip
"""What the files of a family leave unsaid, since it is the default of the family's class in transformers."""
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "experts_per_token", "moe_k")
