"""The config.json reader: the families of models that it reads, and files good and bad."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.errors import ScenarioError
from sdsim.model_config import MAX_FILE_BYTES, read_config
from sdsim.models import Mla, build_model, check_model_name, load_model

DENSE: dict[str, Any] = {
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 4096,
    "vocab_size": 32_000,
    "max_position_embeddings": 32_768,
}
MOE = DENSE | {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 512}
LATENT = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
DEEPSEEK = DENSE | LATENT | {"n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 704}


def write(folder: Path, config: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


FAMILIES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", DENSE | {"model_type": "llama"}, {"dense_layers": 24, "head_dim": 64, "intermediate": 4096}),
    ("llama of old", {k: v for k, v in DENSE.items() if k != "num_key_value_heads"}, {"kv_heads": 16}),
    ("mistral", DENSE | {"sliding_window": 4096}, {"sliding_window": 4096, "sliding_layers": 24}),
    ("mistral of late", DENSE | {"sliding_window": None, "head_dim": 128}, {"sliding_layers": 0, "head_dim": 128}),
    ("qwen2", DENSE | {"sliding_window": 131072, "max_window_layers": 24, "use_sliding_window": False}, {}),
    (
        "qwen2 sliding",
        DENSE | {"sliding_window": 4096, "max_window_layers": 20, "use_sliding_window": True},
        {"sliding_window": 4096, "sliding_layers": 4},
    ),
    ("qwen2 cut short", DENSE | {"sliding_window": 4096, "max_window_layers": 20}, {"sliding_layers": 0}),
    ("qwen3", DENSE | {"head_dim": 128, "tie_word_embeddings": True}, {"head_dim": 128, "tied_embeddings": True}),
    ("gemma", DENSE | {"model_type": "gemma"}, {"tied_embeddings": True}),
    (
        "gemma2",
        DENSE | {"model_type": "gemma2", "sliding_window": 4096},
        {"tied_embeddings": True, "sliding_window": 4096, "sliding_layers": 12},
    ),
    ("gemma untied", DENSE | {"model_type": "gemma", "tie_word_embeddings": False}, {"tied_embeddings": False}),
    (
        "gemma3 of 4B: the rest is the class's",
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "intermediate_size": 10_240,
                "num_hidden_layers": 34,
                "sliding_window": 1024,
            },
        },
        {"parameters": 3_879_895_040, "kv_heads": 4, "head_dim": 256, "sliding_layers": 29, "max_positions": 131_072},
    ),
    (
        "dbrx",
        {
            "model_type": "dbrx",
            "d_model": 6144,
            "n_heads": 48,
            "n_layers": 40,
            "max_seq_len": 32_768,
            "vocab_size": 100_352,
            "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "model_type": ""},
            "ffn_config": {"ffn_hidden_size": 10_752, "moe_num_experts": 16, "moe_top_k": 4, "model_type": ""},
        },
        {"parameters": 131_596_025_856, "experts": 16, "experts_per_token": 4, "expert_intermediate": 10_752},
    ),
    ("gemma3", DENSE | {"sliding_window": 512, "sliding_window_pattern": 6}, {"sliding_layers": 20}),
    (
        "qwen2_moe",
        MOE | {"shared_expert_intermediate_size": 2048, "decoder_sparse_step": 2},
        {"shared_intermediate": 2048, "dense_layers": 12, "intermediate": 4096, "expert_intermediate": 512},
    ),
    ("qwen3_moe", MOE | {"mlp_only_layers": [0, 5], "head_dim": 128}, {"dense_layers": 2, "shared_intermediate": 0}),
    (
        "mixtral",
        DENSE | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
        {"experts": 8, "expert_intermediate": 4096, "intermediate": 0, "dense_layers": 0},
    ),
    ("phimoe", DENSE | {"num_local_experts": 16, "num_experts_per_tok": 2}, {"experts": 16, "moe_layers": 24}),
    ("olmoe", DENSE | {"num_experts": 64, "num_experts_per_tok": 8}, {"expert_intermediate": 4096}),
    (
        "deepseek_v2",
        DEEPSEEK | {"n_shared_experts": 2, "first_k_dense_replace": 1, "q_lora_rank": None, "moe_layer_freq": 1},
        {"shared_intermediate": 1408, "dense_layers": 1, "mla": Mla(0, 512, 128, 64, 128), "head_dim": 192},
    ),
    (
        "deepseek_v3",
        DEEPSEEK
        | {"n_shared_experts": 1, "first_k_dense_replace": 3, "q_lora_rank": 1536}
        | {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}},
        {"mla": Mla(1536, 512, 128, 64, 128), "expert_bytes": 1 + 4 / 128**2, "head_bytes": 2.0},
    ),
    (
        "gpt_oss",
        DENSE
        | {"num_local_experts": 32, "experts_per_token": 4, "num_experts_per_tok": 4, "sliding_window": 128}
        | {
            "layer_types": ["sliding_attention", "full_attention"] * 12,
            "quantization_config": {"quant_method": "mxfp4"},
        },
        {"experts_per_token": 4, "sliding_layers": 12, "expert_bytes": 0.53125, "weight_bytes": 2.0},
    ),
    (
        "glm4_moe",
        MOE | {"num_experts": None, "n_routed_experts": 160, "n_shared_experts": 1, "first_k_dense_replace": 3},
        {"experts": 160, "dense_layers": 3, "shared_intermediate": 512},
    ),
    (
        "multimodal",
        {"text_config": MOE | {"dtype": "float32", "tie_word_embeddings": None}, "vision_config": {"hidden_size": 7}}
        | {"tie_word_embeddings": True},
        {"experts": 16, "hidden": 1024, "weight_bytes": 4.0, "tied_embeddings": True},
    ),
    (
        "ernie4_5_moe",
        DENSE
        | {"moe_num_experts": 64, "moe_k": 6, "moe_intermediate_size": 512, "moe_num_shared_experts": 2}
        | {"moe_layer_start_index": 1, "moe_layer_end_index": 22},
        {"experts": 64, "experts_per_token": 6, "shared_intermediate": 1024, "dense_layers": 2},
    ),
    (
        "llama4",
        {"text_config": DENSE | {"intermediate_size_mlp": 8192, "attention_chunk_size": 8192}}
        | {"num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2},
        {"dense_layers": 12, "intermediate": 8192, "expert_intermediate": 4096, "shared_intermediate": 4096}
        | {"sliding_window": 8192, "sliding_layers": 18},
    ),
    ("every other layer", MOE | {"moe_layer_freq": 2}, {"dense_layers": 12}),
    ("fp8 by tensor", DENSE | {"quantization_config": {"quant_method": "fp8"}}, {"weight_bytes": 1.0}),
    ("half", DENSE | {"torch_dtype": "torch.float16"}, {"weight_bytes": 2.0}),
    ("layers that all attend", DENSE | {"sliding_window": 9, "layer_types": ["full_attention"] * 24}, {}),
]


@pytest.mark.parametrize(("config", "expected"), [f[1:] for f in FAMILIES], ids=[f[0] for f in FAMILIES])
def test_a_family_is_read(tmp_path: Path, config: dict[str, Any], expected: dict[str, Any]) -> None:
    model = load_model(str(write(tmp_path, config)))
    expected = {"sliding_layers": 0, "sliding_window": model.sliding_window} | expected
    assert {key: getattr(model, key) for key in expected} == expected
    assert model.weights_bytes > 0 < model.kv_bytes_per_token


HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("no layers", DENSE | {"num_hidden_layers": 0}, "num_hidden_layers: found 0; allowed: a whole number from 1"),
    ("negative", DENSE | {"hidden_size": -5}, "hidden_size: found -5"),
    ("fraction", DENSE | {"vocab_size": 1.5}, "vocab_size: found 1.5"),
    ("nan", DENSE | {"vocab_size": math.nan}, "vocab_size: found nan"),
    ("infinite", DENSE | {"hidden_size": math.inf}, "hidden_size: found inf"),
    ("huge", DENSE | {"num_hidden_layers": 10**300}, "num_hidden_layers: found 1"),
    ("text", DENSE | {"hidden_size": "1024"}, "hidden_size: found '1024'"),
    ("truth", DENSE | {"num_hidden_layers": True}, "num_hidden_layers: found True"),
    ("list", DENSE | {"intermediate_size": [1, 2]}, r"intermediate_size: found \[1, 2\]"),
    ("missing", {k: v for k, v in DENSE.items() if k != "vocab_size"}, "vocab_size: missing; allowed: a whole number"),
    ("k over experts", MOE | {"num_experts_per_tok": 17}, "num_experts_per_tok: found 17; allowed: .* from 1 to 16"),
    ("k missing", {k: v for k, v in MOE.items() if k != "num_experts_per_tok"}, "num_experts_per_tok.*missing"),
    ("kv heads", DENSE | {"num_key_value_heads": 5}, "num_key_value_heads: found 5; allowed: a divisor of .* 16"),
    ("uneven heads", DENSE | {"hidden_size": 1000}, "head_dim: missing"),
    ("layer types", DENSE | {"layer_types": ["full_attention"]}, "layer_types: found .*one per layer"),
    ("linear layers", DENSE | {"layer_types": ["linear_attention"] * 24}, "layer_types.*full_attention or sliding"),
    ("no window", DENSE | {"layer_types": ["sliding_attention"] * 24}, "sliding_window: missing"),
    ("dense layer", MOE | {"mlp_only_layers": [24]}, r"mlp_only_layers: found \[24\]; allowed: a list of 0 to 23"),
    ("all dense", MOE | {"first_k_dense_replace": 24}, "num_hidden_layers: found 24.*not dense"),
    ("sparse step", MOE | {"decoder_sparse_step": 0}, "decoder_sparse_step: found 0"),
    ("dtype", DENSE | {"torch_dtype": "int3"}, "torch_dtype: found 'int3'; allowed: bfloat16"),
    ("method", DENSE | {"quantization_config": {"quant_method": "awq"}}, "quant_method: found 'awq'; allowed: fp8"),
    ("no method", DENSE | {"quantization_config": {}}, "quant_method: missing"),
    ("not a dict", DENSE | {"quantization_config": 8}, "quant_method: found 8"),
    (
        "block",
        DENSE | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}},
        r"weight_block_size: found \[0, 128\]",
    ),
    (
        "ungated",
        DENSE | {"model_type": "starcoder2"},
        "model_type: found 'starcoder2'; allowed: a family whose FFNs are",
    ),
    ("no section", DENSE | {"ffn_config": 3}, "ffn_config: found 3; allowed: an object with the keys of the FFN"),
    ("tied", DENSE | {"tie_word_embeddings": "yes"}, "tie_word_embeddings: found 'yes'; allowed: true or false"),
    ("inner", {"text_config": [1]}, r"text_config: found \[1\]"),
    ("latent", DENSE | {"kv_lora_rank": 512}, "qk_nope_head_dim: missing"),
    ("qwen3-next", MOE | {"full_attention_interval": 4}, "full_attention_interval: found 4; allowed: layers of full"),
    ("jamba", MOE | {"attn_layer_period": 8}, "attn_layer_period: found 8; allowed: layers of full"),
    ("experts by another name", DENSE | {"expert_count": 8}, "expert_count: found 8; allowed: .*num_local_experts"),
    ("no moe layers", MOE | {"moe_layer_start_index": 24}, "moe_layer_start_index: found 24; allowed: .* from 0 to 23"),
]


@pytest.mark.parametrize(("config", "said"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_a_hostile_config_is_refused(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    path = write(tmp_path, config)
    with pytest.raises(ScenarioError, match=said) as caught:
        check_model_name("config.json", tmp_path)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "num_attention_heads", "num_experts"])
def test_one_mistake_is_one_problem(tmp_path: Path, key: str) -> None:
    full = MOE | {"layer_types": ["full_attention"] * 24, "mlp_only_layers": [3], "first_k_dense_replace": 2}
    with pytest.raises(ScenarioError) as caught:
        load_model(str(write(tmp_path, full | {key: -1})))
    assert len(caught.value.problems) == 1


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_model(str(write(tmp_path, {})))
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"hidden_size": 10', "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe\x00\xd8", "not JSON"),
        (b"\x80\x81\x82", "not JSON"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[1, 2]", r"found \[1, 2\]; allowed: a JSON object"),
        (b'"text"', "found 'text'; allowed: a JSON object"),
        (b"null", "found None"),
        (b" " * (MAX_FILE_BYTES + 1), "over 10 MB"),
    ],
    ids=["truncated", "empty", "surrogate", "binary", "digits", "deep", "list", "string", "null", "large"],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ScenarioError, match=said) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path))


SOMETHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(0, 30) | st.floats() | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=5,
)
READ = (*MOE, *LATENT, "head_dim", "q_lora_rank", "text_config", "layer_types", "sliding_window", "mlp_only_layers")
READ += ("first_k_dense_replace", "decoder_sparse_step", "moe_layer_freq", "quantization_config", "torch_dtype")
READ += ("use_sliding_window", "sliding_window_pattern", "max_window_layers", "n_shared_experts", "tie_word_embeddings")


@given(st.dictionaries(st.sampled_from(READ), SOMETHING, max_size=4))
def test_any_values_give_a_model_or_a_scenario_error(changes: dict[str, Any]) -> None:
    try:
        model = build_model(MOE | changes, "any", "config.json")
    except ScenarioError:
        return
    assert model.parameters > 0
    assert 0 < model.weights_bytes < math.inf
    assert 0 < model.kv_bytes_per_token < math.inf
    assert 0 <= model.sliding_layers <= model.layers
    assert 0 <= model.dense_layers <= model.layers
