"""Drafters against published sizes: DeepSeek-V3's MTP module, an EAGLE-3 head, draft models."""

import math
from pathlib import Path

import pytest

from sdsim.drafts import KINDS, make_draft
from sdsim.errors import ScenarioError
from sdsim.models import load_model, model_names


def test_a_draft_model_is_itself() -> None:
    draft = make_draft("model", load_model("qwen2-57b"), "qwen2-0.5b")
    assert draft.model == load_model("qwen2-0.5b")
    assert not draft.shares_head
    assert draft.extra_projection_parameters == 0
    assert draft.weights_bytes == pytest.approx(0.988e9, rel=0.001)
    assert draft.kv_bytes_per_token == 2 * 24 * 2 * 64 * 2


def test_mtp_of_deepseek_v3_has_the_published_size() -> None:
    """11.5e9 parameters beside the shared embedding and head, all but 0.1% of them in fp8 (DeepSeek-V3's README)."""
    draft = make_draft("mtp", load_model("deepseek-v3"))
    assert draft.model is not None
    assert draft.shares_head
    assert draft.weights_bytes == pytest.approx(11.5e9, rel=0.015)
    assert (draft.model.layers, draft.model.moe_layers, draft.model.experts) == (1, 1, 256)
    assert draft.model.vocabulary == 129_280
    assert draft.extra_projection_parameters == 2 * 7168**2
    assert draft.kv_bytes_per_token == load_model("deepseek-v3").kv_bytes_per_token / 61


def test_mtp_of_a_dense_model_is_a_dense_layer() -> None:
    draft = make_draft("mtp", load_model("qwen2.5-32b"))
    assert draft.model is not None
    assert (draft.model.layers, draft.model.dense_layers, draft.model.moe_layers) == (1, 1, 0)


def test_eagle3_of_qwen3_30b_has_the_published_shape() -> None:
    """SpecForge's qwen3-30B-eagle3.json: hidden 2,048, FFN 6,144, 32 and 4 heads of 128, draft vocabulary 32,000."""
    target = load_model("qwen3-30b")
    draft = make_draft("eagle3", target)
    model = draft.model
    assert model is not None
    assert (model.layers, model.hidden, model.intermediate, model.vocabulary) == (1, 2048, 6144, 32_000)
    assert (model.heads, model.kv_heads, model.head_dim, model.is_moe) == (32, 4, 128, False)
    joined, twice_as_wide = 3 * 2048 * 2048, 2048 * 40 * 128
    assert draft.extra_projection_parameters == joined + twice_as_wide
    own = 2048 * (72 * 128 + 3 * 6144 + 32_000) + joined + twice_as_wide
    assert draft.weights_bytes == 2 * own
    assert draft.kv_bytes_per_token == target.kv_bytes_per_token / 48


@pytest.mark.parametrize(("target", "width"), [("mixtral", 11_008), ("gpt-oss-120b", 7_680)])
def test_eagle3_of_a_moe_without_a_dense_width_takes_8_thirds(target: str, width: int) -> None:
    model = make_draft("eagle3", load_model(target)).model
    assert model is not None
    assert model.intermediate == width
    assert width % 256 == 0
    assert width >= 8 * model.hidden / 3 > width - 256


def test_eagle3_is_16_bit_and_has_full_attention_whatever_the_target_has() -> None:
    for name in ("deepseek-v3", "gpt-oss-120b"):
        model = make_draft("eagle3", load_model(name)).model
        assert model is not None
        assert (model.weight_bytes, model.expert_bytes, model.sliding_layers) == (2.0, 2.0, 0)


def test_a_small_vocabulary_bounds_the_eagle3_head() -> None:
    target = load_model("mixtral")
    model = make_draft("eagle3", target).model
    assert model is not None
    assert model.vocabulary == target.vocabulary == 32_000


def test_ngram_costs_no_memory() -> None:
    draft = make_draft("ngram", load_model("mixtral"), available=0.4)
    assert draft.model is None
    assert (draft.weights_bytes, draft.kv_bytes_per_token, draft.extra_projection_parameters) == (0, 0, 0)
    assert draft.available == 0.4


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", model_names())
def test_a_head_is_smaller_than_its_target(kind: str, name: str) -> None:
    target = load_model(name)
    draft = make_draft(kind, target)
    assert draft.weights_bytes < target.weights_bytes / 4
    assert draft.kv_bytes_per_token < target.kv_bytes_per_token / 20


@pytest.mark.parametrize("available", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_beyond_0_to_1_is_refused(available: float) -> None:
    with pytest.raises(ScenarioError, match=r"draft\.available.*0 to 1"):
        make_draft("ngram", load_model("mixtral"), available=available)


def test_wrong_kinds_and_names_are_refused() -> None:
    target = load_model("mixtral")
    with pytest.raises(ScenarioError, match=r"unknown draft kind 'eagle'.*did you mean eagle3"):
        make_draft("eagle", target)
    with pytest.raises(ScenarioError, match=r"draft\.model: missing"):
        make_draft("model", target)
    with pytest.raises(ScenarioError, match=r"did you mean qwen2-0\.5b"):
        make_draft("model", target, "qwen2-0.5")
    with pytest.raises(ScenarioError, match="takes its shape from the target"):
        make_draft("mtp", target, "qwen2-0.5b")


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ScenarioError) as caught:
        make_draft("model", load_model("mixtral"), available=2.0)
    assert len(caught.value.problems) == 2


def test_a_draft_may_be_a_file(tmp_path: Path) -> None:
    config = '{"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, '
    (tmp_path / "tiny.json").write_text(config + '"vocab_size": 100, "max_position_embeddings": 512}')
    draft = make_draft("model", load_model("mixtral"), "tiny.json", folder=tmp_path)
    assert draft.model is not None
    assert draft.model.name == "tiny"
