"""vLLM's own scheduler on a CPU, for tests: its worker is faked, and a tiny model stands for all.

It needs vLLM importable, in an environment of its own: python -m pip install vllm pytest hypothesis -e .
"""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TINY = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 16, "intermediate_size": 16,
    "moe_intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
    "head_dim": 16, "vocab_size": 64, "num_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 1024,
    "decoder_sparse_step": 1, "norm_topk_prob": True, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
    "tie_word_embeddings": False, "mlp_only_layers": [], "hidden_act": "silu",
}  # fmt: skip
BLOCK = 16


def import_vllm(name: str) -> ModuleType:
    """Return a module of vLLM, or skip; its imports warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("vllm")
        except ImportError as error:
            pytest.skip(f"vLLM is not importable ({error}); see tests/real_vllm.py")
        platforms = importlib.import_module("vllm.platforms")
        if not platforms.current_platform.device_type:  # before 0.33 a CUDA build knows no CPU
            platforms._current_platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform()
        return importlib.import_module(name)


def write_model(folder: Path) -> str:
    """Write the tiny model's configuration; return the folder."""
    (folder / "config.json").write_text(json.dumps(TINY))
    return str(folder)


def model_config(model: str) -> Any:
    """Return vLLM's configuration of *model*."""
    return import_vllm("vllm.config").ModelConfig(model=model, skip_tokenizer_init=True, dtype="bfloat16", seed=0)


def speculative_config(model: str, /, **given: Any) -> Any:
    """Return vLLM's SpeculativeConfig of *given* for *model* as the target."""
    config = import_vllm("vllm.config")
    return config.SpeculativeConfig(
        target_model_config=model_config(model), target_parallel_config=config.ParallelConfig(), **given
    )


def make_scheduler(model: str, blocks: int, speculative: Any = None, additional: Any = None, **limits: Any) -> Any:
    """Return a scheduler of vLLM with *blocks* KV blocks (it keeps one for itself) and *limits* of its own names."""
    config, interface = import_vllm("vllm.config"), import_vllm("vllm.v1.kv_cache_interface")
    structured, torch = import_vllm("vllm.v1.structured_output"), import_vllm("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache = config.CacheConfig(block_size=BLOCK, gpu_memory_utilization=0.9, enable_prefix_caching=False)
        cache.num_gpu_blocks = blocks
        whole = config.VllmConfig(
            model_config=model_config(model),
            cache_config=cache,
            speculative_config=speculative,
            additional_config=additional or {},
            scheduler_config=config.SchedulerConfig(
                max_model_len=TINY["max_position_embeddings"], enable_chunked_prefill=True, is_encoder_decoder=False,
                **limits,
            ),
        )  # fmt: skip
        heads = interface.FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=16, dtype=torch.float32)
        groups = [interface.KVCacheGroupSpec(["layer"], heads)]
        return whole.scheduler_config.get_scheduler_cls()(
            vllm_config=whole,
            kv_cache_config=interface.KVCacheConfig(blocks, kv_cache_tensors=[], kv_cache_groups=groups),
            structured_output_manager=structured.StructuredOutputManager(whole),
            block_size=BLOCK,
            hash_block_size=BLOCK,
            log_stats=True,
        )


def make_request(name: str, prompt: int, output: int) -> Any:
    """Return a request of vLLM: *prompt* tokens in, *output* tokens out."""
    request, sampling = import_vllm("vllm.v1.request"), import_vllm("vllm.sampling_params")
    sampled = sampling.SamplingParams(max_tokens=output, ignore_eos=True)
    return request.Request(name, prompt_token_ids=[7] * prompt, sampling_params=sampled, pooling_params=None)


def worker_output(names: list[str], sampled: list[list[int]]) -> Any:
    """Return what a worker answers: the tokens sampled of each request."""
    places = {name: place for place, name in enumerate(names)}
    return import_vllm("vllm.v1.outputs").ModelRunnerOutput(
        req_ids=names, req_id_to_index=places, sampled_token_ids=sampled, logprobs=None, prompt_logprobs_dict={},
        pooler_output=[],
    )  # fmt: skip


def drafts(names: list[str], length: int) -> Any:
    """Return what a drafter answers: *length* tokens for each request."""
    return import_vllm("vllm.v1.outputs").DraftTokenIds(names, [[5] * length for _ in names])
