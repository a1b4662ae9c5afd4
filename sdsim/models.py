"""Shapes of models, those that ship and those of a Hugging Face config.json: the numbers that fix bytes and flops.

Counted are the attention projections, routers, experts, gated FFNs (three matrices each), embeddings and head. Norms
and biases are left out (under 0.1% of any model that ships), and so are vision towers and multi-token-prediction
layers. `sdsim.model_config` reads the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sdsim.errors import ScenarioError, unknown
from sdsim.model_config import parse_config, read_config


@dataclass(frozen=True, slots=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): per token and layer it stores one latent vector."""

    q_lora_rank: int
    """Rank of the query projection; 0 when queries are projected directly."""
    kv_lora_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model's shape. Parameters are counts, sizes are bytes."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    """Of queries and keys; with MLA its two parts together."""
    intermediate: int = 0
    """Width of the dense FFN that the config declares, even if no layer of it is dense; 0 if it declares none."""
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    """Width of all shared experts of a layer together."""
    dense_layers: int
    """Layers with a dense FFN: all of them in a dense model."""
    vocabulary: int
    tied_embeddings: bool = False
    max_positions: int
    sliding_window: int = 0
    sliding_layers: int = 0
    mla: Mla | None = None
    weight_bytes: float = 2.0
    """Bytes per parameter of everything but the routed experts and what `head_bytes` covers."""
    expert_bytes: float = 2.0
    """Bytes per parameter of the routed experts, block scales included."""
    kv_element_bytes: float = 2.0

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return self.experts > 0

    @property
    def moe_layers(self) -> int:
        """Layers with routed experts."""
        return self.layers - self.dense_layers

    @property
    def attention_input_parameters(self) -> int:
        """The attention projections of one layer that read the hidden state."""
        if self.mla is None:
            return self.hidden * self.head_dim * (self.heads + 2 * self.kv_heads)
        queries = self.mla.q_lora_rank or self.heads * self.head_dim
        return self.hidden * (queries + self.mla.kv_lora_rank + self.mla.rope_dim)

    @property
    def attention_parameters(self) -> int:
        """All attention projections of one layer."""
        if self.mla is None:
            return self.attention_input_parameters + self.hidden * self.head_dim * self.heads
        queries = self.mla.q_lora_rank * self.head_dim
        keys_and_values = self.mla.kv_lora_rank * (self.mla.nope_dim + self.mla.v_dim)
        return self.attention_input_parameters + self.heads * (queries + keys_and_values + self.mla.v_dim * self.hidden)

    @property
    def expert_parameters(self) -> int:
        """One routed expert of one layer: gate, up and down."""
        return 3 * self.hidden * self.expert_intermediate

    @property
    def shared_parameters(self) -> int:
        """The shared experts of one layer, with the gate on their output that the Qwen models have."""
        return (3 * self.shared_intermediate + 1) * self.hidden if self.shared_intermediate else 0

    @property
    def router_parameters(self) -> int:
        """One layer's router."""
        return self.hidden * self.experts

    @property
    def dense_ffn_parameters(self) -> int:
        """The FFN of one dense layer: gate, up and down."""
        return 3 * self.hidden * self.intermediate

    @property
    def head_parameters(self) -> int:
        """The output projection, which every model computes; one that ties it stores it as its embedding."""
        return self.vocabulary * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """The input embedding."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        moe = self.experts * self.expert_parameters + self.shared_parameters + self.router_parameters
        layers = self.layers * self.attention_parameters + self.dense_layers * self.dense_ffn_parameters
        head = 0 if self.tied_embeddings else self.head_parameters
        return layers + self.moe_layers * moe + self.embedding_parameters + head

    @property
    def head_bytes(self) -> float:
        """Bytes per parameter of embedding, head and routers, which quantized checkpoints keep in 16 bits."""
        return max(self.weight_bytes, 2.0)

    @property
    def layers_bytes(self) -> float:
        """Weights of all layers, without embedding and head, B."""
        dense = self.layers * self.attention_parameters + self.dense_layers * self.dense_ffn_parameters
        dense += self.moe_layers * self.shared_parameters
        routed = self.moe_layers * self.experts * self.expert_parameters
        routers = self.moe_layers * self.router_parameters
        return dense * self.weight_bytes + routed * self.expert_bytes + routers * self.head_bytes

    @property
    def weights_bytes(self) -> float:
        """All weights on the GPU, B."""
        head = 0 if self.tied_embeddings else self.head_parameters
        return self.layers_bytes + (self.embedding_parameters + head) * self.head_bytes

    @property
    def kv_bytes_per_token(self) -> float:
        """KV of one token in all layers, B. A sliding layer counts in full, though tokens leave its window."""
        stored = 2 * self.kv_heads * self.head_dim
        if self.mla is not None:
            stored = self.mla.kv_lora_rank + self.mla.rope_dim
        return self.layers * stored * self.kv_element_bytes


@lru_cache
def _shipped() -> dict[str, Any]:
    """Return `aliases` and `config` of each model that ships."""
    text = resources.files("sdsim").joinpath("data/models.yaml").read_text(encoding="utf-8")
    entries: dict[str, Any] = yaml.safe_load(text)
    return entries


def model_names() -> list[str]:
    """Return the names of the models that ship, without their aliases."""
    return sorted(_shipped())


def published_name(name: str) -> str:
    """Return the Hugging Face name of a model that ships; what is none, such as a path, as it is."""
    word = name.strip().lower()
    found = [str(one["aliases"][0]) for key, one in _shipped().items() if word in _names(key, one)]
    return found[0] if found else name


def load_model(name_or_path: str, folder: Path = Path()) -> Model:
    """Return a shipped model by name or alias, or one read from a Hugging Face config.json.

    A path names the file or the folder that holds it, relative to *folder* or else to the current directory.
    """
    return _load(name_or_path, folder, "model")


def build_model(config: Mapping[str, Any], name: str, place: str) -> Model:
    """Return the model that a config.json's content describes; *place* says in errors where it stands."""
    fields, latent = parse_config(config, place)
    return Model(name=name, mla=Mla(**latent) if latent else None, **fields)


def check_model_name(name: str, folder: Path = Path()) -> None:
    """Raise ScenarioError if `load_model` would not load *name*."""
    _load(name, folder, "model")


def check_draft_name(name: str, folder: Path = Path()) -> None:
    """Raise ScenarioError if *name* is no model to draft with; any model is one."""
    _load(name, folder, "draft model")


def _load(name: str, folder: Path, kind: str) -> Model:
    word = name.strip().lower()
    for shipped, entry in _shipped().items():
        if word in _names(shipped, entry):
            return build_model(entry["config"], shipped, f"models.yaml: {shipped}")
    path = _find(name, folder, kind)
    # Hugging Face lays a model out as a folder that is called after it.
    called = path.absolute().parent.name if path.name == "config.json" else path.stem
    return build_model(read_config(path), called, str(path))


def _names(shipped: str, entry: Mapping[str, Any]) -> set[str]:
    return {shipped, *map(str.lower, entry["aliases"])}


def _find(name: str, folder: Path, kind: str) -> Path:
    """Return the config.json that *name* leads to."""
    sentence = f"{unknown(kind, name, model_names())}; or give the path of a Hugging Face config.json"
    if not name.strip():
        raise ScenarioError(sentence)
    for place in (folder / name, Path(name)):
        try:
            path = place / "config.json" if place.is_dir() else place
            if path.is_file():
                return path
        except (OSError, ValueError):
            continue
    if Path(name).name != name or name.endswith(".json"):
        sentence = f"no config.json at {name!r}, from {folder.absolute()} or from here; {sentence}"
    raise ScenarioError(sentence)
