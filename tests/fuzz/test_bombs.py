"""Files far larger, or far larger unpacked, than they may be: refused with one error, in little time and memory."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdsim.errors import SdsimError
from sdsim.latency.calibration import load_calibration
from sdsim.recorder import REQUEST_COLUMNS
from sdsim.report_html import main as report
from sdsim.run import main as run
from sdsim.run_tables import read_table
from sdsim.trace_readers import FORMATS, open_trace
from tests.fuzz.limits import limited
from tests.recorded_runs import record
from tests.test_trace_files import SAMPLES

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read in /proc")
GIGABYTE = 10**9


def test_the_limits_are_felt() -> None:
    with pytest.raises(AssertionError, match="MB"), limited():
        np.ones(7 * 10**7)
    with pytest.raises(AssertionError, match="more than"), limited(0.05):
        sum(1 for _ in itertools.count())


def sparse(path: Path, head: bytes = b"") -> Path:
    """Return the file *path* of a gigabyte in one line: zeros that take no room behind *head*."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(GIGABYTE)
    return path


@pytest.fixture(autouse=True)
def _warm(tmp_path: Path) -> None:
    """Load what the readers load once."""
    (tmp_path / "warm.csv").write_text(SAMPLES["azure"])
    list(open_trace("azure", tmp_path / "warm.csv"))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_gigabyte_in_one_line_is_no_trace(kind: str, tmp_path: Path) -> None:
    path = sparse(tmp_path / "client-0-trace.csv", SAMPLES[kind].encode())
    with limited(), pytest.raises(SdsimError, match=r":\d+: a line over 1,000,000 bytes|NUL|\\x00"):
        list(open_trace(kind, path))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("filler", [b"\n", b"0", b"[", b'{"a":', b"1,1\n"])
def test_a_gigabyte_in_a_megabyte_is_no_trace(kind: str, filler: bytes, tmp_path: Path) -> None:
    member = gzip.compress(filler * (10**7 // len(filler)))
    path = tmp_path / "client-0-trace.csv"
    path.write_bytes(gzip.compress(SAMPLES[kind].encode()) + 100 * member)
    with limited(), pytest.raises(SdsimError) as error:
        list(open_trace(kind, path))
    assert len(str(error.value)) < 5_000


BASE = "model: qwen3-30b-a3b\ngpus: 1 x h200\n"
BASE += "workload: {kind: poisson, rate: 9, limit: 9, lengths: {prompt: 9, output: 9}}\n"
LAUGHS = "a: &a0 [x, x]\n" + "".join(f"b{i}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(30))
SCENARIOS = {
    "a billion laughs": LAUGHS,
    "laughs as keys": "? &a [x, x]\n: &b {? *a : *a}\n? *b\n: *b\n",
    "deep lists": "a: " + "[" * 100_000,
    "deep maps": "{a: " * 100_000,
    "deep blocks": "".join(" " * i + "-\n" for i in range(1_000)),
    "a million keys": "".join(f"k{i}: 1\n" for i in range(80_000)),
    "a long word": "model: " + "x" * 900_000,
    "a long number": "seed: " + "9" * 900_000,
    "a long fraction": "until: 0." + "9" * 900_000 + "s",
    "a long exponent": "until: 1e" + "9" * 900_000,
    "many anchors": "".join(f"&a{i} k{i}: *a{i}\n" for i in range(40_000)),
    "an unclosed quote": 'a: "' + "x\n" * 400_000,
    "tags": "!!python/object/apply:os.system ['true']\n",
    "a directive": "%YAML 9.9\n---\na: 1\n",
    "many documents": "---\na: 1\n" * 100_000,
    "replicas without number": BASE + "replicas: 1e9\n",
    "seeds without number": BASE + "seeds: 1e9\n",
    "a million faults": BASE + "".join(f"x{i}: 1\n" for i in range(9_000)),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_that_grow_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SCENARIOS[name])
    with limited(), pytest.raises(SdsimError, match=r"x\.yaml:") as error:
        run([str(path)])
    assert len(str(error.value)) < 100_000


def test_a_gigabyte_is_no_scenario_and_no_calibration(tmp_path: Path) -> None:
    path = sparse(tmp_path / "x.yaml", b"model: ")
    with limited(), pytest.raises(SdsimError, match="over 1,000,000 bytes"):
        run([str(path)])
    with limited(), pytest.raises(SdsimError, match=r"over [0-9,]+ bytes"):
        load_calibration(path, "h200")


VAST = ["[" * 9_000_000, '{"rows":' * 1_000_000, "[" + "[]," * 1_000_000 + "[]]", "9" * 9_000_000]


@pytest.mark.parametrize("text", VAST, ids=["deep", "deep maps", "long", "a long number"])
def test_calibrations_that_grow_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with limited(), pytest.raises(SdsimError, match=r"x\.json"):
        load_calibration(tmp_path / "x.json", "h200")


def test_a_run_folder_with_vast_files_is_refused(tmp_path: Path) -> None:
    folder = record(tmp_path, "--set", "workload.limit=3")
    (folder / "summary.json").write_text(json.dumps({"policy": ["x"] * 1_500_000}))
    with limited(), pytest.raises(SdsimError, match=r"summary\.json: policy: "):
        report([str(folder)])
    sparse(folder / "summary.json")
    with limited(), pytest.raises(SdsimError, match=r"summary\.json: over"):
        report([str(folder)])


def test_a_table_of_many_equal_rows_is_refused(tmp_path: Path) -> None:
    """Run lengths let a few kilobytes stand for any number of rows."""
    columns = {name: np.zeros(10**6) for name in REQUEST_COLUMNS} | {"request_class": pa.array(["x"] * 10**6)}
    with pq.ParquetWriter(tmp_path / "x.parquet", (table := pa.table(columns)).schema) as file:
        for _ in range(4):
            file.write_table(table)
    with limited(), pytest.raises(SdsimError, match="4,000,000 rows in"):
        read_table(tmp_path / "x.parquet", REQUEST_COLUMNS, "request_class", None)
