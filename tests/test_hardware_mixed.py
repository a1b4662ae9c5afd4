"""The commands that time mixed steps and padded batches, on tiny models."""

from __future__ import annotations

import json

import pytest

from tests.hardware_models import write_configs

# isort: split
from sdsim.errors import ScenarioError
from sdsim.experts import make_routing
from sdsim.hardware import mixed, padding
from sdsim.hardware.lines import json_lines, whole_list


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def words(tmp_path):
    write_configs(tmp_path)
    return ["--model", str(tmp_path / "moe"), "--out", str(tmp_path / "out.jsonl"), "--repeats", "1"]


def test_mixed_steps_are_timed_beside_what_is_predicted(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mixed, "gpu_of_device", lambda device: "h200")  # as if the interpreter were one
    more = "--draft", str(tmp_path / "draft"), "--rows", "1,2", "--draft-length", "2", "--chunk", "0,20"
    assert mixed.main([*words, *more, "--context", "20", "--most-tokens", "25"]) == 0
    head, *rows = lines(tmp_path / "out.jsonl")
    assert (head["kind"], head["model"], head["draft"], head["layers"]) == ("mixed steps", "moe", "draft", 1)
    assert head["provenance"]["command"].startswith("python -m sdsim.hardware.mixed")
    found = [(r["draft_length"], r["rows"], r["chunk"]) for r in rows]
    assert found == [(0, 1, 0), (0, 1, 20), (0, 2, 0), (0, 2, 20), (2, 1, 0), (2, 1, 20), (2, 2, 0)]  # 26 are too many
    for r in rows:
        assert r["step_s"] == pytest.approx(r["target_s"] + r["rejection_s"] + r["draft_s"])
        tokens = r["rows"] * (1 + r["draft_length"]) + r["chunk"]
        assert r["predicted_experts"] == pytest.approx(make_routing(8, 2).distinct_uniform_rows(tokens, tokens))
        assert 0 < r["predicted_target_s"] < r["predicted_step_s"] < 1
        assert (r["draft_s"] > 0) == (r["predicted_draft_s"] > 0) == (r["draft_length"] > 0)
        assert 2 <= r["distinct_experts"] <= 8
    shown = capsys.readouterr().err
    assert "Target time with K drafts a row over OFF" in shown
    assert shown.count("\n") == 7 + 2 + 4


def test_the_surface_is_the_targets_time_over_off():
    rows = [
        {"rows": 4, "draft_length": k, "chunk": c, "target_s": s}
        for k, c, s in ((0, 0, 0.010), (0, 512, 0.020), (3, 0, 0.015), (3, 512, 0.021))
    ]
    assert [line.split()[-1] for line in mixed.surface(rows)[2:]] == ["1.500", "1.050"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rows", "x"], "--rows: 'x'; allowed: whole numbers"),
        (["--chunk", "70000"], "--chunk: '70000'"),
        (["--draft-length", "0,2"], "--draft: missing"),
        (["--draft-length", "0", "--most-tokens", "0"], "--most-tokens: 0"),
        (["--draft-length", "0", "--repeats", "0"], "--repeats and --context"),
    ],
)
def test_bad_options_of_mixed_steps(words, more, said):
    with pytest.raises(ScenarioError, match=said):
        mixed.main([*words, *more])


def test_padding_is_counted_and_timed(words, tmp_path, capsys):
    assert padding.main([*words, "--tokens", "2,3,6", "--to", "6", "--repeats", "4"]) == 0
    head, *rows = lines(tmp_path / "out.jsonl")
    assert (head["kind"], head["layers"], head["repeats"]) == ("padding", 1, 4)
    assert [(r["tokens"], r["run"], r["filling"]) for r in rows] == [
        (t, t if f == "none" else 6, f) for t in (2, 3) for f in padding.FILLINGS
    ]
    for none, same, stale in (rows[:3], rows[3:]):
        assert none["predicted_experts"] < same["predicted_experts"] < stale["predicted_experts"]
        assert same["distinct_experts"] <= none["tokens"] * 2 + 2  # one token's experts more at most
        assert none["distinct_experts"] <= none["tokens"] * 2
        assert stale["distinct_experts"] > none["distinct_experts"]
    assert capsys.readouterr().err.count("experts (") == 6


def test_padding_is_that_of_an_engines_graphs(words):
    options = padding.parser().parse_args([*words, "--tokens", "3,8,9,600"])
    assert padding.batch_sizes(options) == [(3, 4), (9, 16)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--tokens", "8"], "pads any"),
        (["--tokens", ""], "--tokens: ''"),
        (["--repeats", "0"], "--repeats: 0"),
        (["--model", "qwen2-0.5b"], "qwen2-0.5b has no experts"),
    ],
)
def test_bad_options_of_padding(words, more, said):
    with pytest.raises(ScenarioError, match=said):
        padding.main([*words, *more])


def test_lines_are_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.jsonl"
    with pytest.raises(ValueError, match="not JSON compliant"), json_lines(path, {"a": 1}) as append:
        append({"b": float("nan")})
    assert not path.exists()
    with json_lines(path, {"a": 1}) as append:
        append({"b": 2})
    assert lines(path) == [{"a": 1}, {"b": 2}]
    with pytest.raises(ScenarioError, match="no such folder"), json_lines(tmp_path / "no" / "x", {}):
        pass
    assert whole_list("--n", "3, 1,3", 1, 9) == [1, 3]


def test_a_gpu_that_fails_between_lines_is_said_and_they_are_kept(tmp_path):
    path = tmp_path / "lines.jsonl"
    failed = pytest.raises(ScenarioError, match="the GPU failed: RuntimeError: CUDA error")
    with failed as said, json_lines(path, {"kind": "x"}) as append:
        append({"a": 1})
        raise RuntimeError("CUDA error: an illegal memory access")
    assert said.value.problems[1] == f"what was measured is kept in {path}.part"
    assert not path.exists()
    assert len((tmp_path / "lines.jsonl.part").read_text().splitlines()) == 2
