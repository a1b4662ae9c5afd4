"""What the commands print: every figure is there and whole, on a wide terminal, a narrow one and in a file."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sdsim.metrics import Slo, summarise
from sdsim.recorder import Recorder
from sdsim.report.console import predict_table, print_runs, quality_line, quality_lines
from sdsim.report.numerals import number, percent, time_unit, with_interval
from sdsim.report.progress import clock, finished_runs, simulated_progress
from sdsim.report.sheet import Column, Sheet
from sdsim.request import RequestTable
from sdsim.statistics import mean_summary

EXTRAPOLATED = {"measured": 0.0, "interpolated": 0.0, "extrapolated": 1.0}


def spread(median: float) -> dict[str, float]:
    return {"mean": 1.2 * median, "p50": median, "p90": 2 * median, "p99": 6 * median}


def summary(policy: str = "fixed-3", speed: float = 1.0, slo: bool = True, **changes: Any) -> dict[str, Any]:
    return {
        "policy": policy,
        "engine": "ideal",
        "seed": 7,
        "requests": {"offered": 14562, "finished": 14003, "unfinished": 559},
        "ttft_s": spread(0.24 / speed),
        "tpot_s": spread(0.0112 / speed),
        "itl_s": spread(0.031 / speed),
        "e2e_s": spread(4.1 / speed),
        "output_tokens_per_s": 20080.0 * speed,
        "output_tokens_per_gpu_s": 5020.0 * speed,
        "goodput_rps": 11.2 * speed if slo else None,
        "slo_attainment": 0.873 if slo else None,
        "speculation": {
            "mean_draft_length": 3.0,
            "acceptance_length": 2.89,
            "acceptance_rate": 0.63,
            "wasted_fraction": 0.37,
            "off_fraction": 0.125,
        },
        "moe": {"distinct_experts_mean": 54.2},
        "preemptions": 12345,
        "steps": 123456,
        "mean_batch": 38.2,
        "simulated_s": 1200.0,
        "wall_s": 2.3,
        "steps_per_wall_s": 53000.0,
        "data_quality": EXTRAPOLATED,
        **changes,
    }


def printed(
    runs: list[dict[str, Any]], width: int = 200, verdict: tuple[str, ...] = (), notes: tuple[str, ...] = ()
) -> str:
    file = io.StringIO()
    print_runs(Console(file=file, width=width), runs, "bursty · 4 x h200", verdict, notes)
    return file.getvalue()


def row_of(text: str, policy: str) -> list[str]:
    """Return the figures of *policy*, from however many tables."""
    return [word for line in text.splitlines() if line.startswith(f"{policy} ") for word in line.split()[1:]]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_every_policy_has_its_figures_whole(width: int) -> None:
    text = printed([summary("off", 0.5), summary("fixed-3"), summary("disable-by-batch-4-32", 1.1)], width)
    figures = ["240", "1,440", "11.2", "67.2", "5,020", "11.2", "87.3%", "3.00", "2.89", "38.2", "12,345"]
    assert row_of(text, "fixed-3") == figures
    assert max(map(len, text.splitlines())) <= width


def test_all_columns_stand_in_one_table_where_they_fit() -> None:
    runs = [summary("off"), summary("fixed-3")]
    assert len(re.findall("^fixed-3", printed(runs, 120), re.MULTILINE)) == 1
    assert len(re.findall("^fixed-3", printed(runs, 80), re.MULTILINE)) == 2


def test_best_goodput_is_marked_in_plain_text() -> None:
    text = printed([summary("off", 0.5), summary("goodput", 1.1), summary("fixed-3")])
    assert "goodput *" in text
    assert text.count(" *") == 1
    assert "* highest goodput" in text


def test_without_slo_throughput_decides_and_goodput_has_no_column() -> None:
    text = printed([summary("off", 2.0, slo=False), summary("fixed-3", slo=False)])
    assert "off *" in text
    assert "* highest tok/s/GPU" in text
    assert "req/s" not in text


def test_each_engine_has_its_best() -> None:
    engines = [("ideal", 1.0), ("vllm-0.22.1", 0.8)]
    runs = [summary(p, s * speed, engine=e) for e, s in engines for p, speed in (("off", 0.5), ("fixed-3", 1.0))]
    text = printed(runs)
    assert len(re.findall(r"^fixed-3 \* +(ideal|vllm-0\.22\.1) ", text, re.MULTILINE)) == 2
    assert "off *" not in text


def test_intervals_over_seeds_stand_beside_the_deciding_figure() -> None:
    means = [mean_summary([summary(p, s * f) for f in (0.98, 1.0, 1.02)]) for p, s in (("off", 0.5), ("fixed-3", 1.0))]
    text = printed(means, 80)
    assert "11.2 ±0.6" in text
    assert "± half a 95% interval over seeds" in text


def test_undefined_figures_are_dashes() -> None:
    nothing = dict.fromkeys(("mean", "p50", "p90", "p99"))
    run = summary("off", slo=False, ttft_s=nothing, tpot_s=nothing, mean_batch=None, output_tokens_per_gpu_s=None)
    assert row_of(printed([run, run]), "off")[:5] == ["-"] * 5
    block = printed([run])
    assert re.search(r"TTFT, ms( +-){4}\n", block)
    assert re.search(r"goodput, req/s +- ", block)
    assert "None" not in block
    assert "nan" not in block


def test_empty_run_prints() -> None:
    recorder = Recorder(RequestTable())
    empty = summarise(recorder.requests(), recorder.steps(), recorder.irregular_gaps(), Slo(ttft=1.0), gpus=1)
    run = summary() | empty
    assert "requests offered" in printed([run])
    assert row_of(printed([run, run | {"policy": "off"}]), "off")[0] == "-"


@pytest.mark.parametrize("width", [80, 200])
def test_single_run_shows_everything(width: int) -> None:
    text = printed([summary()], width)
    for figure in ("240", "288", "480", "1,440", "4.10", "14,562", "559", "20,080", "5,020", "11.2", "87.3%"):
        assert figure in text
    for figure in ("3.00", "2.89", "63.0%", "37.0%", "12.5%", "54.2", "123,456", "38.2", "12,345", "1,200", "53,000"):
        assert figure in text
    assert max(map(len, text.splitlines())) <= width


def test_single_policy_over_seeds_shows_intervals() -> None:
    text = printed([mean_summary([summary(speed=s) for s in (0.98, 1.0, 1.02)])])
    assert re.search(r"output tok/s/GPU +5,020 ±249", text)


def test_verdict_quality_and_notes_follow_in_order() -> None:
    long = "files: " + "runs/" * 40
    text = printed([summary("off"), summary()], 80, ("fixed-3 wins.",), (long, "3.2 s"))
    places = [text.index(line) for line in ("fixed-3 wins.", "predicted GPU time: 0% measured", long, "3.2 s")]
    assert places == sorted(places)


def test_brackets_are_no_markup() -> None:
    text = printed([summary("my[bold]:Policy"), summary("off")], verdict=("[red]x[/red]",), notes=("[/nothing]",))
    for words in ("my[bold]:Policy", "[red]x[/red]", "[/nothing]"):
        assert words in text


def test_long_names_fold_and_figures_stay_whole() -> None:
    label = "a_package.with.a.long.name.of.a.module:AndItsPolicyClass"
    text = printed([summary(label), summary("off", 0.5)], 80)
    assert max(map(len, text.splitlines())) <= 80
    assert label[:28] in text
    for figure in ("1,440", "5,020", "12,345"):
        assert figure in text


def test_colour_only_on_a_terminal() -> None:
    runs = [summary("off", 0.5), summary()]
    file = io.StringIO()
    print_runs(Console(file=file, width=120, force_terminal=True, color_system="standard"), runs, "", (), ())
    assert "\x1b[1;32m" in file.getvalue()
    assert "\x1b" not in printed(runs)


def test_quality_is_a_range_where_runs_differ() -> None:
    assert quality_line([EXTRAPOLATED]) == "predicted GPU time: 0% measured, 0% interpolated, 100% extrapolated"
    assert quality_lines([EXTRAPOLATED])[1].endswith("until sdsim.profile_gpu times such steps")
    mixed = {"measured": 0.8, "interpolated": 0.15, "extrapolated": 0.05}
    assert len(quality_lines([mixed])) == 1
    text = quality_line([EXTRAPOLATED, mixed])
    assert text == "predicted GPU time: 0 to 80% measured, 0 to 15% interpolated, 5 to 100% extrapolated"


def test_little_is_not_called_none() -> None:
    """Whatever is extrapolated at all shows, and only what is all of it is called all."""
    some = {"measured": 0.9961, "interpolated": 0.0, "extrapolated": 0.0039}
    assert quality_line([some]) == "predicted GPU time: >99% measured, 0% interpolated, <1% extrapolated"
    text = quality_line([some, {"measured": 1.0, "interpolated": 0.0, "extrapolated": 0.0}])
    assert text == "predicted GPU time: >99 to 100% measured, 0% interpolated, 0 to <1% extrapolated"


def prediction(batch: int, length: int, context: int = 128) -> dict[str, Any]:
    speedup = 1 + length * (5 - length) * (1 if batch < 64 else -1) / 20
    times = {"step_s": 0.0113, "target_s": 0.0101, "draft_s": 0.00123, "reject_s": 1e-4, "overhead_s": 0.0}
    shares = {"distinct_experts": 32.1, "tokens_per_step": 2.44, "speedup": speedup, "target_efficiency": 0.913}
    key = {"batch": batch, "draft_length": length, "context": context}
    return {**key, **times, **shares, "data_quality": EXTRAPOLATED}


def predicted(rows: list[dict[str, Any]], width: int = 80, full: bool = False) -> list[str]:
    file = io.StringIO()
    predict_table(Console(file=file, width=width), rows, "a [model] on h200", full)
    return file.getvalue().splitlines()


def test_prediction_marks_the_best_length_of_each_batch() -> None:
    lines = predicted([prediction(b, k) for b in (1, 1024) for k in (0, 1, 2, 4)])
    assert lines[0] == "a [model] on h200"
    assert [line.split() for line in lines if line.split()[:1] in (["1"], ["1,024"])] == [
        ["1", "1.00", "1.20", "1.30*", "1.20"],
        ["1,024", "1.00*", "0.80", "0.70", "0.80"],
        ["1", "0.91", "0.91", "0.91*", "0.91"],
        ["1,024", "0.91*", "0.91", "0.91", "0.91"],
    ]


def test_prediction_has_a_pivot_a_context() -> None:
    lines = predicted([prediction(1, k, c) for k in (0, 2) for c in (128, 4096)])
    assert sum("context 4,096 tokens" in line for line in lines) == 2


def test_prediction_in_full_has_every_figure() -> None:
    lines = predicted([prediction(8, k) for k in (0, 2)], full=True)
    (first, second) = (line.split() for line in lines if line.split()[:3] == ["8", "2", "128"])
    assert first + second[3:] == [
        "8",
        "2",
        "128",
        "11.3",
        "10.1",
        "1.23",
        "0.100",
        "0",
        "32.1",
        "2.44",
        "1.30",
        "91.3%",
    ]


def test_many_lengths_do_not_break_numbers() -> None:
    lines = predicted([prediction(b, k) for b in (1, 2) for k in range(21)])
    assert max(map(len, lines)) <= 80
    heads = " ".join(line for line in lines if line.startswith("batch")).replace("batch", "").split()
    assert heads == 2 * ["OFF", *(f"K={k}" for k in range(1, 21))]
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.0, "0"),
        (7, "7"),
        (1234567, "1,234,567"),
        (1234.4, "1,234"),
        (0.99999, "1.00"),
        (9.996, "10.0"),
        (0.01234, "0.0123"),
        (-12.345, "-12.3"),
        (1e-9, "0.000000"),
    ],
)
def test_numbers(x: float | None, text: str) -> None:
    assert number(x) == text


@given(st.floats(1e-3, 1e12))
def test_numbers_keep_three_digits(x: float) -> None:
    assert math.isclose(float(number(x).replace(",", "")), x, rel_tol=0.0051)


def test_intervals_share_the_decimals_of_their_figure() -> None:
    assert with_interval(11.24, [11.0, 11.5]) == "11.2 ±0.2"
    assert with_interval(0.0112, [0.011, 0.0114], 1000.0) == "11.2 ±0.2"
    assert with_interval(11.24, None) == "11.2"
    assert with_interval(None, None) == "-"


def test_units() -> None:
    assert time_unit([0.2, 3.0, None]) == (1000.0, "ms")
    assert time_unit([1.2, 3.0, 0.0]) == (1.0, "s")
    assert time_unit([None]) == (1000.0, "ms")
    assert percent(0.1234) == "12.3%"


@given(st.integers(20, 200), st.lists(st.text("0123456789,.", min_size=1, max_size=16), min_size=1, max_size=30))
def test_sheets_fit_and_keep_every_cell(width: int, cells: list[str]) -> None:
    file = io.StringIO()
    Sheet((Column("", ["x"], names=True), *(Column("", [cell]) for cell in cells))).show(
        Console(file=file, width=width)
    )
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert [word for line in lines if line.startswith("x") for word in line.split()[1:]] == cells


def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True, force_interactive=True, color_system=None)


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("total", [1200.0, None])
def test_progress_shows_simulated_time(total: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdsim.report.progress.REFRESH_S", 0.0)
    console = terminal()
    with simulated_progress(console, total, "bursty [x]") as advance:
        advance(300.0)
        advance(900.0)
    assert "bursty [x]" in output(console)
    assert ("900 of 1,200 s simulated" if total else "900 s simulated") in output(console)


def test_progress_counts_finished_runs() -> None:
    console = terminal()
    with finished_runs(console, 20, "bursty") as finished:
        finished(3)
    assert "3 of 20 runs" in output(console)


def test_progress_is_silent_off_a_terminal_and_when_quiet() -> None:
    plain = Console(file=io.StringIO(), force_terminal=False)
    hushed = terminal()
    for console, quiet in ((plain, False), (hushed, True)):
        with simulated_progress(console, 10.0, "x", quiet) as advance:
            advance(5.0)
        with finished_runs(console, 2, "x", quiet) as finished:
            finished(1)
        assert output(console) == ""


def test_clock_says_how_much_faster_than_real_time() -> None:
    assert clock(600.0, 1200.0, 2.0) == "600 of 1,200 s simulated, 300 x real time"
