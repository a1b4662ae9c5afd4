"""Models against published parameter counts and the kernel notes' table of bytes; the names and paths that load."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdsim.errors import ScenarioError
from sdsim.models import Mla, check_draft_name, check_model_name, load_model, model_names

PUBLISHED = {
    "qwen3-30b-a3b": 30.5e9,
    "qwen2-57b-a14b": 57.4e9,
    "mixtral-8x7b": 46.7e9,
    "qwen2.5-32b": 32.8e9,
    "qwen3-235b-a22b": 235.1e9,
    "deepseek-v2-lite": 15.7e9,
    "deepseek-v3": 671e9,
    "gpt-oss-120b": 116.8e9,
    "qwen2-0.5b": 0.494e9,
    "qwen3-0.6b": 0.596e9,
}

# MB per expert, of the shared experts and of all experts in a layer; GB of the model; KV bytes per token.
BYTES = {
    "qwen2-57b": (55.05, 440, 3523, 114.8, 57_344),
    "mixtral-8x7b": (352.3, 0, 2819, 93.4, 131_072),
    "qwen3-30b": (9.44, 0, 1208, 61.1, 98_304),
    "deepseek-v2-lite": (17.3, 34.6, 1107, 31.4, 31_104),
}

SMALL: dict[str, Any] = {
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 4096,
    "vocab_size": 32_000,
    "max_position_embeddings": 32_768,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert load_model(name).parameters == pytest.approx(PUBLISHED[name], rel=0.002)


def test_every_model_that_ships_has_a_published_count() -> None:
    assert model_names() == sorted(PUBLISHED)


@pytest.mark.parametrize("name", BYTES)
def test_bytes_are_those_of_the_kernel_notes(name: str) -> None:
    model = load_model(name)
    expert, shared, layer, total, kv = BYTES[name]
    one = model.expert_parameters * model.expert_bytes
    assert one / 1e6 == pytest.approx(expert, rel=0.002)
    assert model.shared_parameters * model.weight_bytes / 1e6 == pytest.approx(shared, rel=0.002)
    assert model.experts * one / 1e6 == pytest.approx(layer, rel=0.001)
    assert model.weights_bytes / 1e9 == pytest.approx(total, rel=0.001)
    assert model.kv_bytes_per_token == kv


@pytest.mark.parametrize(
    ("name", "distinct", "milliseconds"),
    [
        ("qwen2-57b", 8, 6.37),
        ("qwen2-57b", 64, 26.5),
        ("mixtral", 2, 5.93),
        ("mixtral", 8, 21.7),
        ("qwen3-30b", 8, 1.42),
        ("deepseek-v2-lite", 6, 1.14),
    ],
)
def test_a_step_reads_the_bytes_of_the_kernel_notes(name: str, distinct: int, milliseconds: float) -> None:
    """All layers' weights and the head at 4.3 TB/s, without the embedding, with *distinct* experts a layer."""
    model = load_model(name)
    idle = model.moe_layers * (model.experts - distinct) * model.expert_parameters * model.expert_bytes
    read = model.weights_bytes - model.embedding_parameters * model.head_bytes - idle
    assert read / 4.3e12 * 1e3 == pytest.approx(milliseconds, rel=0.01)


def test_quantized_models_have_the_size_of_their_checkpoints() -> None:
    """gpt-oss-120b: 60.8 GiB (its model card). DeepSeek-V3: 1 byte a parameter, its embedding and head 2."""
    assert load_model("gpt-oss-120b").weights_bytes / 2**30 == pytest.approx(60.8, rel=0.005)
    v3 = load_model("deepseek-v3")
    assert v3.weights_bytes == pytest.approx(v3.parameters + 2 * v3.head_parameters, rel=0.001)
    assert v3.weight_bytes == v3.expert_bytes == 1 + 4 / 128**2
    assert v3.head_bytes == 2.0


def test_a_dense_model_has_no_moe_layer() -> None:
    model = load_model("qwen2.5-32b")
    assert not model.is_moe
    assert (model.moe_layers, model.dense_layers, model.router_parameters, model.shared_parameters) == (0, 64, 0, 0)


def test_latent_attention_of_deepseek() -> None:
    lite, v3 = load_model("deepseek-v2-lite"), load_model("deepseek-v3")
    assert lite.mla == Mla(0, 512, 128, 64, 128)
    assert v3.mla is not None
    assert v3.mla.q_lora_rank == 1536
    assert (lite.dense_layers, lite.moe_layers, v3.dense_layers, v3.moe_layers) == (1, 26, 3, 58)
    assert v3.kv_bytes_per_token == 61 * 576 * 2
    # q_a, q_b, kv_a, kv_b and o: 1536 x 7168, 24576 x 1536, 576 x 7168, 32768 x 512, 7168 x 16384.
    assert v3.attention_parameters == 11_010_048 + 37_748_736 + 4_128_768 + 16_777_216 + 117_440_512


def test_half_of_gpt_oss_slides() -> None:
    model = load_model("gpt-oss-120b")
    assert (model.sliding_window, model.sliding_layers, model.layers) == (128, 18, 36)
    assert model.kv_bytes_per_token == 2 * 36 * 8 * 64 * 2


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("qwen2-57b", "qwen2-57b-a14b"),
        ("QWEN3-30B", "qwen3-30b-a3b"),
        ("mixtral", "mixtral-8x7b"),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        (" gpt-oss-120b ", "gpt-oss-120b"),
    ],
)
def test_aliases_and_case(alias: str, name: str) -> None:
    assert load_model(alias) == load_model(name)
    assert load_model(alias).name == name


def write(folder: Path, config: object, name: str = "config.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


def test_a_path_names_the_file_or_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "models" / "Mine-7B", SMALL)
    write(tmp_path, SMALL, "small.json")
    expected = load_model(str(path))
    assert expected.name == "Mine-7B"
    assert load_model("models/Mine-7B", tmp_path) == expected
    assert load_model("models/Mine-7B/config.json", tmp_path) == expected
    assert load_model("small.json", tmp_path).name == "small"
    monkeypatch.chdir(tmp_path)
    assert load_model("models/Mine-7B") == load_model("models/Mine-7B", tmp_path / "elsewhere") == expected
    check_model_name("models/Mine-7B", Path())
    check_draft_name("small.json", Path())


def test_a_path_is_relative_to_the_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "near", SMALL, "m.json")
    write(tmp_path / "here", SMALL | {"num_hidden_layers": 3}, "m.json")
    monkeypatch.chdir(tmp_path / "here")
    assert load_model("m.json", tmp_path / "near").layers == 24


@pytest.mark.parametrize("name", ["qwen9", "", "  ", "a\0b", "x" * 5000, "no/such/model", "gone.json", "/dev/null"])
def test_a_name_that_leads_nowhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScenarioError, match=r"unknown model .*known: deepseek-v2-lite.*or give the path"):
        check_model_name(name, tmp_path)
    with pytest.raises(ScenarioError, match="unknown draft model"):
        check_draft_name(name, tmp_path)


def test_a_slip_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ScenarioError, match="did you mean qwen3-30b-a3b"):
        load_model("qwen3-30b-a3")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScenarioError, match="or give the path of a Hugging Face config"):
        load_model("empty", tmp_path)
