"""The public traces as the readers give them, against what was measured on them by other means."""

from __future__ import annotations

import csv
import datetime as dt
import json
import time
from pathlib import Path

import numpy as np
import pytest

from sdsim.lengths import LEVELS, LengthTable, length_table
from sdsim.policy import FloatArray
from sdsim.trace_readers import Clip
from tests.trace_samples import gather, shared

AZURE = "azure2023/AzureLLMInferenceTrace_{}.csv"


def idc(times: FloatArray, window_s: float) -> float:
    counts = np.histogram(times, np.arange(0.0, times[-1], window_s))[0]
    return float(counts.var() / counts.mean())


def row_by_row(path: Path, limit: int) -> list[tuple[float, int, int]]:
    """Read an Azure trace as a replay on a real engine does: microseconds, usable rows, limit, clip."""
    rows = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            at = dt.datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
            prompt, output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            if prompt > 0 and output > 0:
                rows.append((at, min(prompt, 6000), min(output, 1500)))
            if len(rows) >= limit:
                break
    return rows


@pytest.mark.parametrize("name", ["code", "conv"])
@pytest.mark.parametrize(("rate", "limit"), [(10.0, 300), (2.5, 75)])
def test_azure_replays_as_on_a_real_engine(name: str, rate: float, limit: int) -> None:
    path = shared(AZURE.format(name))
    rows = row_by_row(path, limit)
    scale = (limit / rate) / (rows[-1][0] - rows[0][0])
    got = gather("azure", path, limit=limit, rate=rate, clip=Clip(6000, 1500))
    assert got.arrival_s == pytest.approx([(at - rows[0][0]) * scale for at, _, _ in rows], abs=2e-6 * scale)
    assert got.arrival_s[-1] == limit / rate
    assert got.prompt_tokens.tolist() == [prompt for _, prompt, _ in rows]
    assert got.output_tokens.tolist() == [output for _, _, output in rows]


@pytest.mark.parametrize(
    ("name", "count", "rate", "cv", "spread"),
    [("conv", 19_366, 5.53, 1.09, (1.39, 3.86, 16.1)), ("code", 8_819, 2.57, 13.2, (13.2, 71.6, 164))],
)
def test_azure_statistics(name: str, count: int, rate: float, cv: float, spread: tuple[float, ...]) -> None:
    path = shared(AZURE.format(name))
    start = time.process_time()
    rows = gather("azure", path)
    assert time.process_time() - start < 0.5
    gaps = np.diff(rows.arrival_s)
    assert len(rows) == count
    assert count / rows.arrival_s[-1] == pytest.approx(rate, rel=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.01)
    assert [idc(rows.arrival_s, window_s) for window_s in (1.0, 10.0, 60.0)] == pytest.approx(spread, rel=0.02)
    assert rows.prompt_tokens.mean() == pytest.approx({"conv": 1154.7, "code": 2047.8}[name], abs=0.1)


def test_mooncake_is_poisson_like_after_the_spread() -> None:
    path = shared("mooncake/conversation_trace.jsonl")
    rows = gather("mooncake", path, seed=7)
    gaps = np.diff(rows.arrival_s)
    assert len(rows) == 12_031
    assert 12_031 / rows.arrival_s[-1] == pytest.approx(3.40, abs=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
    assert idc(rows.arrival_s, 1.0) == pytest.approx(1.0, abs=0.1)
    assert np.all(gaps > 0.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows.prompt_tokens.tolist() == [line["input_length"] for line in lines]
    buckets = np.array([line["timestamp"] for line in lines]) / 1000.0
    late = rows.arrival_s - buckets
    assert late.max() - late.min() < 3.0


def test_mooncake_synthetic_stays_nearly_as_it_is() -> None:
    path = shared("mooncake/synthetic_trace.jsonl")
    rows = gather("mooncake", path)
    times = np.array([json.loads(line)["timestamp"] for line in path.read_text().splitlines()]) / 1000.0
    moved = rows.arrival_s - times
    assert (np.abs(moved - np.median(moved)) < 1e-9).mean() > 0.99


def test_servegen_counts_and_lengths() -> None:
    folder = shared("servegen/data/reason/deepseek-r1")
    counts: dict[float, float] = {}
    for file in folder.glob("*-trace.csv"):
        for line in file.read_text().splitlines():
            start, rate = map(float, line.split(",")[:2])
            counts[start] = counts.get(start, 0.0) + round(600.0 * rate)
    begin = min(start for start, count in counts.items() if count)
    rows = gather("servegen", folder, seed=1, limit=200_000)
    offset = rows.arrival_s[0] + begin
    seen = np.histogram(rows.arrival_s + offset, [begin + 600.0 * i for i in range(6)])[0]
    assert seen == pytest.approx([counts[begin + 600.0 * i] for i in range(5)], abs=3)
    again = gather("servegen", folder, seed=1, limit=1000)
    assert np.array_equal(again.arrival_s, rows.arrival_s[:1000])


def test_shipped_tables_are_the_fit_of_the_data() -> None:
    azure = {name: gather("azure", shared(AZURE.format(name))) for name in ("conv", "code")}
    mooncake = gather("mooncake", shared("mooncake/conversation_trace.jsonl"))
    fits = {f"azure-{name}": rows for name, rows in azure.items()} | {"mooncake-conv": mooncake}
    for name, rows in fits.items():
        fit, shipped = LengthTable.fit(rows.prompt_tokens, rows.output_tokens), length_table(name)
        assert len(shipped.scores) == len(LEVELS)
        assert shipped.prompt_tokens == pytest.approx(fit.prompt_tokens, abs=0.006, rel=1e-4)
        assert shipped.output_tokens == pytest.approx(fit.output_tokens, abs=0.006, rel=1e-4)
        assert shipped.rank_correlation == pytest.approx(fit.rank_correlation, abs=1e-4)
