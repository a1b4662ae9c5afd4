"""The predict command: contract, laws and bad input."""

from __future__ import annotations

import json

import pytest

from sdsim.errors import SdsimError
from sdsim.predict import main

PAIR = ["--model", "qwen2-57b-a14b", "--draft", "qwen2-0.5b", "--gpu", "h200"]
KEYS = {
    "batch", "draft_length", "context", "step_s", "target_s", "draft_s", "reject_s", "overhead_s", "distinct_experts",
    "tokens_per_step", "speedup", "target_efficiency", "data_quality",
}  # fmt: skip


def rows(*words, capsys):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["rows"]


def test_contract_and_cross_product(capsys):
    found = rows(*PAIR, "--batch", "1,8", "--draft-length", "0,2,4", "--context", "128,1000", capsys=capsys)
    assert len(found) == 12
    assert all(set(r) == KEYS for r in found)
    for r in found:
        parts = r["target_s"] + r["draft_s"] + r["reject_s"] + r["overhead_s"]
        assert r["step_s"] == pytest.approx(parts)
        if r["draft_length"] == 0:
            assert (r["speedup"], r["tokens_per_step"], r["draft_s"], r["target_efficiency"]) == (1, 1, 0, 1)


def test_base_is_computed_even_if_not_asked_for(capsys):
    alone = rows(*PAIR, "--batch", "8", "--draft-length", "4", capsys=capsys)
    both = rows(*PAIR, "--batch", "8", "--draft-length", "0,4", capsys=capsys)
    assert (
        alone[0]["speedup"]
        == both[1]["speedup"]
        == pytest.approx(both[1]["tokens_per_step"] * both[0]["step_s"] / both[1]["step_s"])
    )


def test_perfect_acceptance_and_none(capsys):
    for rate, tokens in (("1", 5), ("0", 1)):
        found = rows(*PAIR, "--batch", "1", "--draft-length", "4", "--acceptance", rate, capsys=capsys)
        assert found[0]["tokens_per_step"] == tokens


def test_gpus_are_written_as_in_a_scenario(capsys):
    first, *others = (
        rows("--model", "mixtral-8x7b", "--gpu", gpus, "--batch", "4", capsys=capsys)
        for gpus in ("2 x h200", "2xH200", "2 X h200")
    )
    assert others == [first] * 2
    with pytest.raises(SdsimError, match=r"gpus: found 'two x h200'; allowed: a number of GPUs and their name"):
        main(["--model", "mixtral-8x7b", "--gpu", "two x h200"])


def test_config_json_and_other_shapes(tmp_path, capsys):
    config = {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936, "max_position_embeddings": 40960,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    words = ["--draft", "eagle3", "--gpu", "h200", "--batch", "4", "--draft-length", "2"]
    own, named = (rows("--model", m, *words, capsys=capsys) for m in (str(path), "qwen3-30b-a3b"))
    assert own == named
    less = rows(
        "--model", "qwen3-30b-a3b", *words, "--routing", "{kind: correlated, within: 0.6, between: 0.9}", capsys=capsys
    )
    assert less[0]["distinct_experts"] < own[0]["distinct_experts"]
    assert rows("--model", "deepseek-v3", "--gpu", "8 x h200", "--draft", "mtp", "--batch", "8", capsys=capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "qwen9", "--gpu", "h200"], "unknown model"),
        (["--model", "mixtral-8x7b", "--gpu", "h20"], "did you mean"),
        ([*PAIR, "--batch", "1,x"], "--batch"),
        ([*PAIR, "--batch", "0"], "--batch"),
        ([*PAIR, "--draft-length", "99"], "--draft-length"),
        ([*PAIR, "--context", "-1"], "--context"),
        ([*PAIR, "--acceptance", "1.5"], "acceptance"),
        ([*PAIR, "--acceptance", "nan"], "acceptance"),
        ([*PAIR, "--routing", "skewd"], "routing"),
        ([*PAIR, "--engine", "vllm-9"], "unknown engine"),
        (["--model", "mixtral-8x7b", "--gpu", "h200", "--draft-length", "2"], "--draft"),
    ],
)
def test_bad_input(words, said):
    with pytest.raises(SdsimError, match=said):
        main([*words, "--json"])


def test_table_and_plot(tmp_path, capsys):
    picture = tmp_path / "speedup.png"
    assert main([*PAIR, "--full", "--plot", str(picture)]) == 0
    assert "Speedup" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000
