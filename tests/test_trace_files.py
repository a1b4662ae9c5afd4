"""Files that are no traces at all: the answer is a TraceError or requests, soon and in little memory."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsim.errors import TraceError
from sdsim.trace_readers import FORMATS, open_trace, text
from tests.trace_samples import DATASET, GOOD, JSONL, SERVEGEN, gather, problems, save

SAMPLES = {**GOOD, "servegen": SERVEGEN}


def answer(kind: str, content: bytes) -> bool:
    """Return whether *content* is accepted as a trace; anything but a TraceError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), json.dumps(DATASET), "x-dataset.json")
        path = save(Path(folder), content, "x-trace.csv")
        problems: tuple[str, ...] = ()
        try:
            rows = gather(kind, path, rate=2.0)
        except TraceError as error:
            problems = error.problems
    if problems:
        assert all(line.startswith((str(path), "...")) for line in problems)
        assert len(problems) <= 7
        return False
    assert np.isfinite(rows.arrival_s).all()
    assert np.all(np.diff(rows.arrival_s) >= 0.0)
    assert rows.arrival_s[0] == 0.0
    assert min(rows.prompt_tokens.min(), rows.output_tokens.min()) >= 1
    return True


@given(kind=st.sampled_from(FORMATS), content=st.binary(max_size=300))
@settings(max_examples=300)
def test_no_bytes_bring_a_traceback(kind: str, content: bytes) -> None:
    answer(kind, content)


@given(
    kind=st.sampled_from(FORMATS),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4),
    zipped=st.booleans(),
)
@settings(max_examples=500)
def test_no_edit_of_a_trace_brings_a_traceback(kind: str, edits: list[tuple[int, int, bytes]], zipped: bool) -> None:
    content = SAMPLES[kind].encode()
    for place, cut, put in edits:
        content = content[:place] + put + content[place + cut :]
    answer(kind, gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "swap", ["nan", "inf", "-1", "1e400", "{}", "٣", "\0", "1_0", "+7", "", "\r", " 7 ", "9" * 5000]
)
def test_no_number_brings_a_traceback(kind: str, swap: str) -> None:
    for number in ("374", "44", "472", "18", "10", "2999", "2.5", "600", "0.5", "1.0", "12.5", "2023"):
        if number in SAMPLES[kind]:
            answer(kind, SAMPLES[kind].replace(number, swap, 1).encode())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_gzip_cut_or_damaged_anywhere_is_said_to_be(kind: str, tmp_path: Path) -> None:
    whole = gzip.compress(SAMPLES[kind].encode())
    for size in range(2, len(whole)):
        assert any("gzip file is" in line for line in problems(kind, save(tmp_path, whole[:size], "x-trace.csv")))
    damaged = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    assert "the gzip file is damaged" in problems(kind, save(tmp_path, damaged, "x-trace.csv"))[-1]


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "TEXT_BYTES", 2**22)
    path = save(tmp_path, gzip.compress(JSONL.splitlines(True)[1].encode() * 100_000))
    tracemalloc.start()
    assert "decompresses to more than" in problems("jsonl", path)[-1]
    assert tracemalloc.get_traced_memory()[1] < 2e7
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("filler", "message"), [(b"x", "a line over 1,000,000 bytes"), (b"\n", "a megabyte of empty lines")]
)
def test_a_line_without_end_is_not_read_on(filler: bytes, message: str, tmp_path: Path) -> None:
    path = save(tmp_path, gzip.compress(JSONL.encode() + filler * 50_000_000))
    tracemalloc.start()
    assert message in problems("jsonl", path)[-1]
    assert tracemalloc.get_traced_memory()[1] < 2e7
    tracemalloc.stop()
    long = JSONL.encode() + b'{"x": "' + b"y" * 1_100_000 + b'"}\n' + JSONL.encode()
    if filler == b"x":
        assert problems("jsonl", save(tmp_path, long))[0].startswith(":4: a line over")


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdsim.trace_readers.replay.HELD_ROWS", 1)
    lines = (f'{{"arrival_s": {i}, "prompt_tokens": 5, "output_tokens": 7}}\n' for i in range(60_000))
    path = save(tmp_path, gzip.compress("".join(lines).encode(), 1))
    tracemalloc.start()
    assert sum(len(rows) for rows in open_trace("jsonl", path)) == 60_000
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


def test_what_is_no_file_is_said_so(tmp_path: Path) -> None:
    save(tmp_path, JSONL, "trace.jsonl")
    assert "no such file; did you mean trace.jsonl?; give" in problems("jsonl", tmp_path / "trase.jsonl")[0]
    assert "nor a folder" in problems("servegen", tmp_path / "nowhere" / "x.csv")[0]
    assert "a folder; this format reads one file" in problems("azure", tmp_path)[0]
    assert "a folder without *-trace.csv" in problems("servegen", tmp_path)[0]
    assert "unknown trace format 'azur'" in problems("azur", tmp_path / "trace.jsonl")[0]
    if os.getuid():
        (tmp_path / "trace.jsonl").chmod(0)
        assert "cannot be read" in problems("jsonl", tmp_path / "trace.jsonl")[0]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "no object"),
        ('{"0": {"input_tokens": "{1: 1}"}}', "window '0'"),
        ('{"0": {"input_tokens": "{1: x}", "output_tokens": "{1: 1}"}}', "window '0'"),
        ('{"0": {"input_tokens": "{1: 1, 2}", "output_tokens": "{1: 1}"}}', "out of range"),
        ('{"0": {"input_tokens": "{-1: 1}", "output_tokens": "{1: 1}"}}', "out of range"),
        ('{"0": {"input_tokens": "{1: 0}", "output_tokens": "{1: 1}"}}', "out of range"),
        ('{"x": {"input_tokens": "{1: 1}", "output_tokens": "{1: 1}"}}', "window 'x'"),
        ('{"0": 5}', "window '0'"),
    ],
)
def test_a_malformed_dataset_is_said_to_be(dataset: str, message: str, tmp_path: Path) -> None:
    path = save(tmp_path, SERVEGEN, "a-trace.csv")
    assert "no *-dataset.json" in problems("servegen", path)[0]
    save(tmp_path, dataset, "a-dataset.json")
    with pytest.raises(TraceError, match=r"a-dataset\.json") as caught:
        open_trace("servegen", path)
    assert message in str(caught.value)
