"""The reader of a Hugging Face config.json: which of its keys give which fields of a model.

The reader goes by keys, not by `model_type`, so that a model of a known shape and a new name can be read.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from sdsim.errors import ScenarioError
from sdsim.model_families import CHOSEN, EXPERTS, RENAMED, SECTIONS, UNGATED, UNREADABLE, UNSAID

MAX_FILE_BYTES = 10_000_000
MAX_LAYERS = 10_000
MAX_SIZE = 2**24
"""The largest width, count or vocabulary accepted: far above any model, and no product of them overflows a float."""

DTYPE_BYTES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0, "float8_e4m3fn": 1.0}
MXFP4_BYTES = (4 + 8 / 32) / 8
"""4-bit elements with one 8-bit scale for each 32 (OCP Microscaling Formats, v1.0)."""
SCALE_BYTES = 4.0
"""One fp32 scale per block of an fp8 matrix (DeepSeek-V3, arXiv 2412.19437, section 3.3)."""

WeightFormat = Literal["fp32", "bf16", "fp8", "mxfp4"]


def weight_format(width: float) -> WeightFormat:
    """Return what weights of *width* bytes each, block scales included, are stored in."""
    if width > 1.5:
        return "bf16" if width == 2.0 else "fp32"
    return "fp8" if width > 0.9 else "mxfp4"


NOPE_EVERY = 4
"""Llama 4: each fourth layer has no rotary embedding and sees the whole context; the others see chunks of it."""


class MlaFields(TypedDict):
    """The fields of `sdsim.models.Mla`."""

    q_lora_rank: int
    kv_lora_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int


class ModelFields(TypedDict):
    """The fields of `sdsim.models.Model` that a config.json gives, without its latent attention."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    experts: int
    experts_per_token: int
    expert_intermediate: int
    shared_intermediate: int
    dense_layers: int
    vocabulary: int
    tied_embeddings: bool
    max_positions: int
    sliding_window: int
    sliding_layers: int
    weight_bytes: float
    expert_bytes: float


def read_config(path: Path) -> dict[str, Any]:
    """Return the JSON object in *path*."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ScenarioError(f"{path}: over 10 MB; allowed: a config.json of at most 10 MB; do not name the weights")
        config = json.loads(text)
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}; give a readable config.json") from None
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"{path}: not JSON: {error}; mend or replace the file") from None
    if not isinstance(config, dict):
        raise ScenarioError(f"{path}: found {reprlib.repr(config)}; allowed: a JSON object with a model's keys")
    return config


def parse_config(config: Mapping[str, Any], place: str) -> tuple[ModelFields, MlaFields | None]:
    """Return the fields of the model that a config.json's content describes, and of its latent attention if it has one.

    *place* says in errors where the content stands.
    """
    keys = _Keys(config, place)
    layers, hidden = keys.whole("num_hidden_layers", high=MAX_LAYERS), keys.whole("hidden_size")
    heads, kv_heads, head_dim, latent = _attention(keys, hidden)
    experts = keys.whole(*EXPERTS, low=0, default=0)
    dense_layers = _dense_layers(keys, layers) if experts else layers
    intermediate, width = _ffn_widths(keys, experts, dense_layers)
    window, sliding_layers = _sliding(keys, layers)
    weight_bytes, expert_bytes = _precision(keys)
    fields = ModelFields(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        experts=experts,
        experts_per_token=keys.whole(*CHOSEN, high=experts) if experts else 0,
        expert_intermediate=width,
        shared_intermediate=_shared_width(keys, width) if experts else 0,
        dense_layers=dense_layers,
        vocabulary=keys.whole("vocab_size"),
        tied_embeddings=keys.truth("tie_word_embeddings", default=False),
        max_positions=keys.whole("max_position_embeddings"),
        sliding_window=window,
        sliding_layers=sliding_layers,
        weight_bytes=weight_bytes,
        expert_bytes=expert_bytes,
    )
    for key in sorted(UNREADABLE & keys.values.keys()):
        keys.wrong(key, keys.values[key], "layers of full, sliding or latent attention, without this key")
    if keys.values.get("model_type") in UNGATED:
        keys.wrong("model_type", keys.values["model_type"], "a family whose FFNs are gated, of three matrices")
    if not keys.values.keys() & set(EXPERTS):
        for key in sorted(k for k, v in keys.values.items() if v and ("expert" in k or "moe" in k)):
            keys.wrong(key, keys.values[key], f"such a key beside the number of experts, {' or '.join(EXPERTS)}")
    if keys.problems:
        raise ScenarioError(*keys.problems)
    return fields, latent


class _Keys:
    """A config's keys, read one by one; what is wrong is collected, and read as 0 meanwhile."""

    def __init__(self, config: Mapping[str, Any], place: str) -> None:
        self.place = place
        self.problems: list[str] = []
        present = list(config.items())
        for name, about in SECTIONS.items():
            section = config.get(name) or {}
            if isinstance(section, dict):
                present += section.items()
            else:
                self.wrong(name, section, f"an object with the keys of {about}")
        given = {RENAMED.get(key, key): value for key, value in present if value is not None}
        self.values = UNSAID.get(str(given.get("model_type")), {}) | given

    def wrong(self, key: str, found: object, allowed: str) -> None:
        """Note that *key* holds *found*."""
        shown = "missing" if found is None else f"found {reprlib.repr(found)}"
        self.problems.append(f"{self.place}: {key}: {shown}; allowed: {allowed}")

    def whole(self, *names: str, low: int = 1, high: int = MAX_SIZE, default: int | None = None) -> int:
        """Return the whole number under the first of *names* that is present."""
        key = next((name for name in names if name in self.values), " or ".join(names))
        value = self.values.get(key, default)
        if type(value) is int and (low <= value <= high or key not in self.values):
            return value
        self.wrong(key, value, f"a whole number from {low} to {high:,}")
        return 0

    def truth(self, name: str, *, default: bool) -> bool:
        """Return the truth value under *name*."""
        value = self.values.get(name, default)
        if isinstance(value, bool):
            return value
        self.wrong(name, value, "true or false")
        return default

    def members(self, name: str, allowed: Sequence[object], length: int = 0) -> list[Any]:
        """Return the list under *name*, of *allowed* members only and *length* of them if given; or an empty one."""
        value = self.values.get(name, [])
        fits = isinstance(value, list) and len(value) in (0, length or len(value))
        if fits and all(type(v) is type(allowed[0]) and v in allowed for v in value):
            return list(value)
        shown = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
        self.wrong(name, value, f"a list of {shown}, one per layer" if length else f"a list of {shown}")
        return []


def _attention(keys: _Keys, hidden: int) -> tuple[int, int, int, MlaFields | None]:
    """Return the heads, the KV heads, the head dimension and the latent attention."""
    heads = keys.whole("num_attention_heads")
    kv_heads = keys.whole("num_key_value_heads", default=heads)
    if heads and kv_heads and heads % kv_heads:
        keys.wrong("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {heads}")
    if "kv_lora_rank" not in keys.values:
        even = None if heads and hidden % heads else hidden // max(heads, 1)
        return heads, kv_heads, keys.whole("head_dim", default=even), None
    latent = MlaFields(
        q_lora_rank=keys.whole("q_lora_rank", low=0, default=0),
        kv_lora_rank=keys.whole("kv_lora_rank"),
        nope_dim=keys.whole("qk_nope_head_dim"),
        rope_dim=keys.whole("qk_rope_head_dim"),
        v_dim=keys.whole("v_head_dim"),
    )
    return heads, kv_heads, latent["nope_dim"] + latent["rope_dim"], latent


def _dense_layers(keys: _Keys, layers: int) -> int:
    """Return how many of a MoE model's layers keep a dense FFN."""
    if not layers:
        return 0
    dense = set(range(keys.whole("first_k_dense_replace", low=0, high=layers, default=0)))
    dense |= set(keys.members("mlp_only_layers", range(layers)))
    step = keys.whole("decoder_sparse_step", default=1) or 1
    dense |= {layer for layer in range(layers) if (layer + 1) % step}
    every = keys.whole("moe_layer_freq", default=1) or 1
    dense |= {layer for layer in range(layers) if layer % every}
    first = keys.whole("moe_layer_start_index", low=0, high=layers - 1, default=0)
    last = keys.whole("moe_layer_end_index", low=-1, high=layers - 1, default=-1) % layers
    apart = keys.whole("moe_layer_interval", "interleave_moe_layer_step", default=1) or 1
    dense |= {layer for layer in range(layers) if not first <= layer <= last or (layer + 1) % apart}
    if len(dense) == layers:
        keys.wrong("num_hidden_layers", layers, "one layer or more that is not dense, since there are experts")
    return len(dense)


def _ffn_widths(keys: _Keys, experts: int, dense_layers: int) -> tuple[int, int]:
    """Return the widths of the dense FFN and of an expert; Mixtral and others give experts `intermediate_size`.

    Llama 4 gives dense layers a width of their own, `intermediate_size_mlp`.
    """
    if experts and "moe_intermediate_size" in keys.values:
        dense = keys.whole("intermediate_size", default=None if dense_layers else 0)
        return dense, keys.whole("moe_intermediate_size")
    width = keys.whole("intermediate_size")
    dense = keys.whole("intermediate_size_mlp", default=width)
    return (dense if dense_layers else 0), (width if experts else 0)


def _shared_width(keys: _Keys, expert_width: int) -> int:
    """Return the width of a layer's shared experts: given outright (Qwen), or as a number of experts (DeepSeek)."""
    llama4 = int("interleave_moe_layer_step" in keys.values)  # it always has one, and no key for it
    number = keys.whole("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", low=0, default=llama4)
    names = ("shared_expert_intermediate_size", "shared_intermediate_size")
    return keys.whole(*names, low=0, default=number * expert_width)


def _sliding(keys: _Keys, layers: int) -> tuple[int, int]:
    """Return the window and the layers that use it.

    Told by `layer_types`, else by a pattern (each n-th layer is full), else by Qwen's switch and first windowed layer.
    A chunk, of which a token sees what lies before it, is taken for a window: it is seen whole only at its end.
    """
    kinds = keys.members("layer_types", ("full_attention", "sliding_attention", "chunked_attention"), layers)
    if "attention_chunk_size" in keys.values:
        chunked = kinds.count("chunked_attention") if kinds else layers - layers // NOPE_EVERY
        return keys.whole("attention_chunk_size"), chunked
    sliding = kinds.count("sliding_attention")
    if not kinds:
        switched_on = keys.truth("use_sliding_window", default="max_window_layers" not in keys.values)
        if not switched_on or "sliding_window" not in keys.values:
            return 0, 0
        pattern = keys.whole("sliding_window_pattern", default=layers + 1) or 1
        sliding = layers - layers // pattern - keys.whole("max_window_layers", low=0, default=0)
    return (keys.whole("sliding_window"), sliding) if sliding > 0 else (0, 0)


def _precision(keys: _Keys) -> tuple[float, float]:
    """Return the bytes per parameter of all but experts, and of experts."""
    dtype = str(keys.values.get("torch_dtype", keys.values.get("dtype", "bfloat16"))).removeprefix("torch.")
    if dtype not in DTYPE_BYTES:
        keys.wrong("torch_dtype", dtype, " or ".join(DTYPE_BYTES))
    stored = DTYPE_BYTES.get(dtype, 2.0)
    quantization = keys.values.get("quantization_config")
    if quantization is None:
        return stored, stored
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method == "fp8":
        block = quantization.get("weight_block_size") if isinstance(quantization, dict) else None
        stored = 1.0 + (_scale_bytes(keys, block) if block is not None else 0.0)
        return stored, stored
    if method != "mxfp4":
        keys.wrong("quantization_config.quant_method", method, "fp8 or mxfp4, or no quantization_config")
    return stored, MXFP4_BYTES


def _scale_bytes(keys: _Keys, block: object) -> float:
    """Return the bytes of scales per parameter of an fp8 matrix with one scale per block."""
    if isinstance(block, list) and len(block) == 2 and all(type(b) is int and 0 < b <= MAX_SIZE for b in block):
        return SCALE_BYTES / float(block[0] * block[1])
    keys.wrong("quantization_config.weight_block_size", block, "two whole numbers, such as [128, 128]")
    return 0.0
