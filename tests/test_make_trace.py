"""Generated traces: the same bytes again, and the statistics that they are fitted to."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from sdsim.errors import ScenarioError
from sdsim.make_trace import lines, main
from sdsim.scenario import load_scenario
from sdsim.trace_readers import open_trace

TRACES = Path(__file__).resolve().parents[1] / "traces"
SHIPPED = {"conv": ("chat-bursty.jsonl.gz", 1), "code": ("code-bursty.jsonl.gz", 3)}


@pytest.mark.parametrize("kind", sorted(SHIPPED))
def test_a_shipped_trace_is_what_its_command_writes(kind: str) -> None:
    name, seed = SHIPPED[kind]
    text = gzip.decompress((TRACES / name).read_bytes())
    assert "".join(lines(kind, 3500.0, seed)).encode() == text
    readme = (TRACES / "README.md").read_text()
    assert f"--kind {kind} --seconds 3500 --seed {seed} --out traces/{name}" in readme
    assert hashlib.sha256((TRACES / name).read_bytes()).hexdigest() in readme
    assert hashlib.sha256(text).hexdigest() in readme


def test_the_same_options_give_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        assert main(["--kind", "conv", "--seconds", "60", "--seed", "5", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'a'}: ")
    replay = said.splitlines()[1].partition(" --set ")[2].strip("'")
    steady = Path(__file__).parent.parent / "scenarios/steady.yaml"
    assert load_scenario(steady, [replay]).workload.kind == "trace"
    trace = open_trace("jsonl", tmp_path / "a")
    assert trace.class_names == ("chat",)
    assert sum(len(rows) for rows in trace) == sum(1 for _ in lines("conv", 60.0, 5))


@pytest.mark.parametrize("options", [["--seconds", "0"], ["--seconds", "nan"]])
def test_bad_options_end_with_2(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--kind", "code", "--out", str(tmp_path / "x"), *options])
    assert ended.value.code == 2
    assert options[-1] in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_said() -> None:
    with pytest.raises(ScenarioError, match=r"/dev/null/x\.gz: cannot be written: .*--out"):
        main(["--kind", "code", "--seconds", "5", "--out", "/dev/null/x.gz"])


@pytest.mark.parametrize(
    ("kind", "rate", "cv", "spread"),
    [("conv", 5.53, 1.09, (1.39, 3.86, 16.1)), ("code", 2.57, 13.2, (13.2, 71.6, 164.0))],
)
def test_the_law_has_the_counts_of_azure(kind: str, rate: float, cv: float, spread: tuple[float, ...]) -> None:
    """One trace of an hour is one draw of the Azure hour: the median over seeds is near it."""
    seen = np.median([_statistics(kind, seed) for seed in range(9)], axis=0)
    assert seen == pytest.approx([rate, cv, *spread], rel=0.15)


def _statistics(kind: str, seed: int) -> list[float]:
    times = np.array([float(line.split(", ", 1)[0].split(": ")[1]) for line in lines(kind, 3500.0, seed)])
    gaps = np.diff(times)
    counts = [np.histogram(times, np.arange(0.0, 3500.0, window_s))[0] for window_s in (1.0, 10.0, 60.0)]
    return [len(times) / 3500.0, gaps.std() / gaps.mean(), *(float(count.var() / count.mean()) for count in counts)]
