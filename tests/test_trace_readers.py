"""Trace readers: what each format gives, and what each malformed file is answered with."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from sdsim.errors import TraceError
from sdsim.lengths import length_law
from sdsim.trace_readers import _FILES, FORMATS, Clip, Rows, open_trace, text
from sdsim.trace_readers.mistakes import Mistakes
from tests.trace_samples import AZURE, BURSTGPT, DATASET, GOOD, JSONL, MOONCAKE, SERVEGEN, gather, problems, save


def test_azure(tmp_path: Path) -> None:
    rows = gather("azure", save(tmp_path, AZURE))
    assert rows.prompt_tokens.tolist() == [374, 396, 91]
    assert rows.output_tokens.tolist() == [44, 109, 16]
    assert rows.arrival_s == pytest.approx([0.0, 4.314579, 20654.81941], abs=1e-9)
    of_2024 = AZURE.replace("00,374", "+00:00,374").replace(".5,91", ".5+00:00,91").replace("0,396", "+00:00,396")
    assert np.array_equal(gather("azure", save(tmp_path, of_2024)).arrival_s, rows.arrival_s)


def test_mooncake_spreads_a_bucket_and_keeps_its_order(tmp_path: Path) -> None:
    path = save(tmp_path, MOONCAKE)
    rows = gather("mooncake", path, seed=3)
    assert rows.prompt_tokens.tolist() == [10, 11, 12, 13, 14, 15]
    times = rows.arrival_s - rows.arrival_s[3] + 2.999
    assert np.all(np.diff(rows.arrival_s) > 0)
    assert rows.arrival_s[0] == 0.0
    assert 0.0 < times[0] < times[2] < 2.999
    assert 6.0 < times[4] < times[5] < 9.0
    assert not np.array_equal(gather("mooncake", path, seed=4).arrival_s, rows.arrival_s)


def test_a_bucket_may_straddle_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, MOONCAKE)
    whole = gather("mooncake", path)
    monkeypatch.setattr(text, "BLOCK_BYTES", 100)
    assert np.array_equal(gather("mooncake", path).arrival_s, whole.arrival_s)


def test_burstgpt(tmp_path: Path) -> None:
    rows = gather("burstgpt", save(tmp_path, BURSTGPT))
    assert rows.arrival_s.tolist() == [0.0, 40.0]
    assert rows.prompt_tokens.tolist() == [472, 1087]
    first_edition = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,GPT-4,472,18,490,API log\n"
    assert gather("burstgpt", save(tmp_path, first_edition)).output_tokens.tolist() == [18]


def test_jsonl_has_classes(tmp_path: Path) -> None:
    path = save(tmp_path, JSONL)
    rows = gather("jsonl", path)
    assert rows.arrival_s.tolist() == [0.0, 0.5, 1.5]
    assert rows.prompt_tokens.tolist() == [374, 5, 8]
    assert rows.labels is not None
    assert rows.labels.tolist() == ["chat", "default", "code"]
    assert open_trace("jsonl", path).class_names == ("chat", "code", "default")
    assert open_trace("jsonl", path, limit=1).class_names == ("chat",)


def test_servegen_has_the_published_counts(tmp_path: Path) -> None:
    save(tmp_path, SERVEGEN, "chunk-0-trace.csv")
    save(tmp_path, SERVEGEN, "chunk-1-trace.csv")
    save(tmp_path, json.dumps(DATASET), "chunk-1-dataset.json")
    rows = gather("servegen", tmp_path, seed=1)
    assert len(rows) == 2 * (300 + 60)
    assert set(rows.prompt_tokens) == {10, 20}
    assert set(rows.output_tokens) == {3}
    assert np.all(np.diff(rows.arrival_s) >= 0)
    assert rows.arrival_s[0] == 0.0
    assert 590.0 < rows.arrival_s[600] <= 1200.0
    one = gather("servegen", tmp_path / "chunk-1-trace.csv", seed=1, limit=310, rate=31.0)
    assert one.arrival_s[-1] == 10.0
    fixed = gather("servegen", tmp_path / "chunk-0-trace.csv", lengths=length_law("azure-conv"), limit=50)
    assert fixed.prompt_tokens.max() > 20
    save(tmp_path, "300,1,1,Gamma,1,1\n900,1,1,Gamma,1,1\n", "chunk-2-trace.csv")
    assert "ends after another client's next one begins" in problems("servegen", tmp_path)[0]


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_gzip_and_line_ends_make_no_difference(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gather(kind, save(tmp_path, GOOD[kind]))
    body = GOOD[kind].replace("\r\n", "\n").rstrip().encode()
    halves = gzip.compress(body[:50]) + gzip.compress(body[50:])
    of_windows = b"\xef\xbb\xbf" + body.replace(b"\n", b"\r\n")
    variants = [gzip.compress(body), halves, body, body + b"\n", of_windows, of_windows + b"\r\n \n\n"]
    for size in (2**18, 7):
        monkeypatch.setattr(text, "BLOCK_BYTES", size)
        for variant in variants:
            assert np.array_equal(gather(kind, save(tmp_path, variant)).arrival_s, plain.arrival_s)


def test_limit_then_clip_then_rate(tmp_path: Path) -> None:
    path = save(tmp_path, AZURE)
    rows = gather("azure", path, limit=2, rate=4.0, clip=Clip(380, 100))
    assert rows.arrival_s.tolist() == [0.0, 0.5]
    assert rows.prompt_tokens.tolist() == [374, 380]
    assert rows.output_tokens.tolist() == [44, 100]
    assert gather("azure", path, limit=9, rate=3.0, clip=Clip(output=1)).arrival_s[-1] == 1.0
    assert gather("azure", path, limit=1, rate=3.0).arrival_s.tolist() == [0.0]
    at_once = "\n".join(['{"arrival_s": 1, "prompt_tokens": 1, "output_tokens": 1}'] * 3)
    with pytest.raises(TraceError, match="at once"):
        open_trace("jsonl", save(tmp_path, at_once), rate=1.0)


def test_a_trace_longer_than_memory_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, JSONL)
    held = gather("jsonl", path, rate=2.0)
    monkeypatch.setattr("sdsim.trace_readers.replay.HELD_ROWS", 1)
    trace = open_trace("jsonl", path, rate=2.0)
    for _ in range(2):
        assert np.array_equal(np.concatenate([rows.arrival_s for rows in trace]), held.arrival_s)


BAD = [
    ("azure", AZURE.replace("396,109", "396,nan"), ":3: GeneratedTokens is 'nan'; whole numbers to"),
    ("azure", AZURE.replace("396,109", "inf,109"), ":3: ContextTokens is 'inf'"),
    ("azure", AZURE.replace("396,109", "-396,109"), ":3: ContextTokens is '-396'"),
    ("azure", AZURE.replace("396,109", "396.5,109"), ":3: ContextTokens is '396.5'"),
    ("azure", AZURE.replace("396,109", "99999999999,109"), ":3: ContextTokens is '99999999999'"),
    ("azure", AZURE.replace("396,109", "396"), ", 2 columns; 3 are allowed"),
    ("azure", AZURE.replace("396,109", "396,109,1"), ", 4 columns"),
    ("azure", AZURE.replace("50.9951690", "61.9951690"), ":3: TIMESTAMP is '2023-11-16 18:15:61.9951690'"),
    ("azure", AZURE.replace("11-16 18:15:50", "13-16 18:15:50"), ":3: TIMESTAMP is"),
    ("azure", AZURE.replace("2023-11-16 18:15:50.9951690", "now"), ":3: TIMESTAMP is 'now'"),
    ("azure", AZURE.replace("50.9951690", "50.9951690+05:00"), ":3: TIMESTAMP is"),
    ("azure", AZURE.replace("2023-11-16 18:15:51", "2023-11-14 18:15:51"), ":4: arrives 172800 s before an earlier"),
    ("azure", AZURE[:-6], ":5: cut off: '2023-11-17 00:00:01.5', 1 columns; 3 are allowed"),
    ("azure", AZURE.replace("\r\n2023-11-17", "\r\n\r\n2023-11-17"), ":5: an empty line"),
    ("azure", AZURE[41:], ":1: begins with '2023-11-16 18:15:46.6805900,374,44'; the azure format begins with TIME"),
    ("azure", BURSTGPT, "it looks like burstgpt: set format: burstgpt"),
    ("azure", JSONL, "it looks like jsonl: set format: jsonl"),
    ("azure", MOONCAKE, "it looks like mooncake: set format: mooncake"),
    ("azure", SERVEGEN, "it looks like servegen: set format: servegen"),
    ("jsonl", AZURE, "it looks like azure: set format: azure"),
    ("servegen", AZURE, "it looks like azure: set format: azure"),
    ("burstgpt", BURSTGPT.replace("45.0", "-1"), ":3: Timestamp is '-1'"),
    ("burstgpt", BURSTGPT.replace("45.0", "3.5"), ":3: arrives 1.5 s before an earlier line"),
    ("jsonl", JSONL.replace("44", '"44"'), ":1: output_tokens is '44'"),
    ("jsonl", JSONL.replace("44", "true"), ":1: output_tokens is true"),
    ("jsonl", JSONL.replace("2.5", "NaN"), ":1: arrival_s is NaN"),
    ("jsonl", JSONL.replace("2.5", "1e999"), ":1: arrival_s is inf"),
    ("jsonl", JSONL.replace("2.5", "1" * 400), ":1: arrival_s is 1111"),
    ("jsonl", JSONL.replace("2.5", "1700000000000"), ":1: arrival_s is 1700000000000; 0 to 1e+11 s"),
    ("jsonl", JSONL.replace('"arrival_s": 3', '"arrival_s": 2'), ":2: arrives 0.5 s before"),
    ("jsonl", JSONL.replace('"arrival_s": 3, ', ""), ":2: no arrival_s or timestamp"),
    ("jsonl", JSONL.replace('"code"', "3"), ":3: class is 3"),
    ("jsonl", JSONL.rstrip()[:-4], ":3: cut off: "),
    ("jsonl", "[1]\n", ":1: '[1]' is no object"),
    ("jsonl", "[" * 100_000, " is no JSON"),
    ("jsonl", JSONL.encode().replace(b"chat", b"ch\xe4t"), ":1: byte 75 is 0xe4, not UTF-8"),
    ("mooncake", MOONCAKE.replace("2999", "-1"), ":4: timestamp is -1; 0 to 1e+14 ms"),
    ("servegen", SERVEGEN.replace("Gamma", "Pareto"), ":2: law 'Pareto'"),
    ("servegen", SERVEGEN.replace("0.5,1,", "nan,1,"), ":2: rate is 'nan'"),
    ("servegen", SERVEGEN.replace("1200", "600"), ":3: start 600 is not after"),
    ("servegen", SERVEGEN.replace("0.5,1,G", "1e9,1,G"), "up to 3,000,000 are allowed"),
    *((kind, "", "an empty file") for kind in FORMATS),
    *((kind, "\n\n \n", "an empty file") for kind in FORMATS),
    ("azure", AZURE.splitlines()[0], "no usable request"),
    ("jsonl", JSONL.splitlines()[0].replace("44", "0"), "no usable request"),
]


@pytest.mark.parametrize(("kind", "content", "message"), BAD)
def test_a_malformed_file_is_named_by_line(kind: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    found = problems(kind, save(tmp_path, content))
    assert len(found) == 1
    assert message in found[0]
    assert found[0].count(";") >= 2
    assert len(found[0]) < 400


def test_five_mistakes_are_told_and_the_others_counted(tmp_path: Path) -> None:
    lines = JSONL.splitlines()
    bad = [*lines, *['{"arrival_s": 5}'] * 9]
    found = problems("jsonl", save(tmp_path, "\n".join(bad) + "\n"))
    assert [line.split(":")[1] for line in found[:5]] == ["4", "5", "6", "7", "8"]
    assert found[5:] == [": ... and 4 more"]
    found = problems("jsonl", save(tmp_path, "\n".join(bad) * 300))
    assert "... and 995 more; reading stopped there" in found[-1]
    assert len(found) == 6


@pytest.mark.parametrize("kind", ["azure", "burstgpt", "jsonl"])
def test_a_block_with_a_mistake_keeps_the_meaning_of_its_other_lines(kind: str, tmp_path: Path) -> None:
    """Such a block is read line by line, the others at once."""
    lines = GOOD[kind].splitlines()
    mistakes = Mistakes(tmp_path)
    readers = (_FILES[kind](save(tmp_path, "\n".join(part)), 0, mistakes) for part in (lines, [*lines, "bad"]))
    at_once, singly = ([tuple(map(float, row)) for rows in reader for row in table(rows)] for reader in readers)
    assert at_once == singly
    assert mistakes.count == 1


def table(rows: Rows) -> zip[tuple[float, int, int]]:
    return zip(rows.arrival_s, rows.prompt_tokens, rows.output_tokens, strict=True)


def test_a_mistake_far_behind_the_limit_is_not_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, JSONL + "bad\n")
    with pytest.raises(TraceError, match="bad"):
        open_trace("jsonl", path)
    monkeypatch.setattr(text, "BLOCK_BYTES", 50)
    assert len(gather("jsonl", path, limit=2)) == 2
