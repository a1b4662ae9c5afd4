"""The pictures: written without a warning whatever the records, bounded in points, and true to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.errors import ScenarioError
from sdsim.latency import COMPONENTS
from sdsim.recorder import REQUEST_COLUMNS, STEP_COLUMNS
from sdsim.report import series, style
from sdsim.report.latency_plot import offered_latencies
from sdsim.report.plots import plot_latencies, plot_predict, plot_timeline
from sdsim.report.step_bars import LOOKS, OTHER, merge, parts_of, visible
from sdsim.report.timeline_plot import curves, labels
from tests.recorded_runs import record

PNG = b"\x89PNG\r\n\x1a\n"


def columns(names: tuple[str, ...], count: int, **values: Any) -> dict[str, Any]:
    return {name: np.broadcast_to(np.asarray(values.get(name, 0.0), float), count).copy() for name in names}


def result(policy: str = "fixed-3", count: int = 400, seed: int = 1, slo: bool = True, engine: str = "ideal") -> Any:
    """Return a run of *count* requests and ten times as many steps, of two replicas."""
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.uniform(0, 60, count))
    first = arrival + rng.lognormal(-1.5, 0.7, count)
    tokens = rng.integers(1, 300, count)
    finish = first + (tokens - 1) * rng.lognormal(-4.4, 0.3, count)
    late = finish > 60
    finish[late] = np.nan
    first[late & (first > 60)] = np.nan
    requests = columns(
        REQUEST_COLUMNS, count, arrival_s=arrival, first_token_s=first, finish_s=finish, output_tokens=tokens
    )
    places = 5 * count
    start = np.tile(60 * np.arange(places) / max(places, 1), 2)
    rows = rng.integers(0, 60, 2 * places)
    look = {"draft_length": (rows < 30) * 3.0, "waiting": rng.integers(0, 5, 2 * places), "rows": rows}
    steps = columns(STEP_COLUMNS, 2 * places, start_s=start, seconds=60 / max(places, 1), **look)
    targets = SimpleNamespace(ttft=2.0, tpot=None, e2e=None) if slo else None
    summary = {"policy": policy, "engine": engine}
    scenario = SimpleNamespace(slo=targets)
    return SimpleNamespace(policy=policy, summary=summary, requests=requests, steps=steps, scenario=scenario)


def predictions(batches: list[int], lengths: list[int], contexts: tuple[int, ...] = (128,)) -> tuple[Any, Any]:
    rows, parts = [], []
    for batch in batches:
        for length in lengths:
            for context in contexts:
                times = {name: 1e-4 * (1 + i) * (1 + batch * length / 99) for i, name in enumerate(COMPONENTS)}
                key = {"batch": batch, "draft_length": length}
                gains = {"speedup": 1 + length / 3, "target_efficiency": 1 / (1 + length / 9)}
                rows.append({**key, "context": context, "step_s": 0.9 * sum(times.values()), **gains})
                parts.append({**key, **times})
    return rows, parts


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(PNG)
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.parametrize("draw", [plot_timeline, plot_latencies])
@pytest.mark.parametrize("count", [0, 1, 2, 400])
@pytest.mark.parametrize("slo", [True, False])
def test_runs_of_any_size_are_drawn(draw: Any, count: int, slo: bool, tmp_path: Path) -> None:
    draw([result(count=count, slo=slo), result("off", count, slo=slo)], tmp_path / "x.png")
    width, height = size(tmp_path / "x.png")
    assert width == 1200
    assert 500 < height < 1300


@pytest.mark.parametrize("draw", [plot_timeline, plot_latencies])
def test_many_policies_are_drawn(draw: Any, tmp_path: Path) -> None:
    draw([result(f"a-policy-with-a-long-name-{i}", 50, seed=i) for i in range(12)], tmp_path / "x.png")
    size(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("batches", "lengths", "contexts"),
    [
        ([1, 2, 4, 8], [0, 2, 4], (128,)),
        ([4], [0], (128, 1024)),
        ([4], [3], (128,)),
        (list(range(1, 99)), [0, 9], (1,)),
    ],
)
def test_predictions_of_any_shape_are_drawn(
    batches: list[int], lengths: list[int], contexts: tuple[int, ...], tmp_path: Path
) -> None:
    plot_predict(*predictions(batches, lengths, contexts), tmp_path / "x.png")
    assert size(tmp_path / "x.png")[0] == 1200


@pytest.mark.parametrize(("suffix", "start"), [("png", PNG), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_the_suffix_is_the_format_and_the_bytes_repeat(suffix: str, start: bytes, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.{suffix}" for i in (1, 2)]
    for path in paths:
        plot_latencies([result()], path)
    assert paths[0].read_bytes().startswith(start)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("name", ["x.jpeg", "x", "missing/x.png"])
def test_files_that_cannot_be_written_are_the_users_errors(name: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=name):
        plot_latencies([result()], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_pictures_does_not_import_matplotlib() -> None:
    code = "import sys, sdsim.report.plots, sdsim.report.console; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_drawing_leaves_the_callers_settings_alone(tmp_path: Path) -> None:
    import matplotlib

    before = {name: matplotlib.rcParams[name] for name in style.STYLE}
    plot_latencies([result()], tmp_path / "x.png")
    assert {name: matplotlib.rcParams[name] for name in style.STYLE} == before


def test_points_are_few_however_long_the_run() -> None:
    long = result(count=20_000)
    edges = series.time_bins([long.requests], [long.steps])
    assert len(edges) == series.MOST_BINS + 1
    assert {len(curve) for curve in curves(long, edges).values()} == {series.MOST_BINS}
    assert len(series.distribution_curve(long.requests["arrival_s"])[0]) == series.CURVE_POINTS


times = st.floats(0, 100)
step = st.tuples(times, st.floats(1e-3, 20), st.integers(0, 50))


@given(st.lists(step, max_size=30), st.integers(1, 50), st.sampled_from([3, 1 << 16]))
def test_bins_conserve_the_integral(steps: list[tuple[float, float, int]], bins: int, chunk: int) -> None:
    start, seconds, values = (np.array([s[i] for s in steps], float) for i in range(3))
    edges = np.linspace(0, 121, bins + 1)
    overlaps = np.clip(start + seconds, None, edges[1:, None]) - np.clip(start, edges[:-1, None], None)
    expected = (np.clip(overlaps, 0, None) * values).sum(axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "CHUNK_STEPS", chunk)
        found = series.time_integral({"start_s": start, "seconds": seconds}, edges, values)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_means_are_weighted_by_time_and_idle_bins_are_empty() -> None:
    steps = {"start_s": np.array([0.0, 1.0, 0.0]), "seconds": np.array([1.0, 3.0, 4.0])}
    edges, where = np.array([0.0, 4.0, 8.0]), np.array([1.0, 1.0, 0.0])
    mean = series.time_mean(steps, edges, np.array([8.0, 0.0, 99.0]), where)
    np.testing.assert_allclose(mean, [2.0, np.nan])


def test_arrivals_count_every_request() -> None:
    run = result()
    edges = series.time_bins([run.requests], [run.steps])
    rates = series.arrivals_per_s(run.requests, edges)
    assert np.dot(rates, np.diff(edges)) == pytest.approx(400)


@given(st.lists(st.floats(0, 1e3) | st.just(np.inf), max_size=2000))
def test_distribution_curves_reach_the_share_that_finished(values: list[float]) -> None:
    x, share = series.distribution_curve(np.array(values))
    finished = [v for v in values if np.isfinite(v)]
    assert len(x) == len(share) <= series.CURVE_POINTS
    assert (np.diff(x) >= 0).all()
    assert (np.diff(share) > 0).all()
    if finished:
        assert x[-1] == max(finished)
        assert share[-1] == pytest.approx(len(finished) / len(values))


def test_latencies_are_over_the_requests_offered() -> None:
    first, finish = [1.0, 1.0, np.nan], [1.0, 3.0, np.nan]
    table = columns(REQUEST_COLUMNS, 3, first_token_s=first, finish_s=finish, output_tokens=[1, 3, 5])
    ttft, tpot = offered_latencies(table)
    np.testing.assert_array_equal(ttft, [1.0, 1.0, np.inf])
    np.testing.assert_array_equal(tpot, [1.0, np.inf])


def test_labels_name_engines_where_they_differ() -> None:
    assert labels([result("off"), result("fixed-3")]) == ["off", "fixed-3"]
    assert labels([result("off"), result("off", engine="vllm")]) == ["off, ideal", "off, vllm"]


def test_every_component_has_its_look() -> None:
    assert set(COMPONENTS) <= set(LOOKS)
    assert len(set(LOOKS.values())) == len(LOOKS)


def test_small_components_are_merged_and_nothing_is_lost() -> None:
    part = {"experts": 0.9, "router": 1e-4, "norms": 1e-4, "novel": 0.2}
    names = visible([part])
    assert names == ["experts", "novel"]
    merged = merge(part, names)
    assert merged[OTHER] == pytest.approx(2e-4)
    assert sum(merged.values()) == pytest.approx(sum(part.values()))


def test_the_first_context_is_drawn() -> None:
    parts = parts_of([{"batch": 1, "draft_length": 0, "experts": s} for s in (1.0, 2.0)])
    assert parts == {(1, 0): {"experts": 1.0}}


def test_ticks_are_few_and_rather_powers_of_two() -> None:
    assert style.spread_evenly([1, 2, 4, 8, 16, 32, 64, 128, 256], 10) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert style.spread_evenly(range(1, 257), 10) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert style.spread_evenly([1, 2, 4, 8, 16, 32, 64, 128, 256], 6) == [1, 4, 16, 64, 256]
    assert style.spread_evenly([5], 10) == [5]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=300, unique=True), st.integers(2, 20))
def test_ticks_never_exceed_the_limit(batches: list[int], most: int) -> None:
    kept = style.spread_evenly(sorted(batches), most)
    assert 1 <= len(kept) <= most
    assert set(kept) <= set(batches)


def test_line_styles_differ() -> None:
    looks = {(look["color"], str(look["linestyle"])) for look in map(style.line_style, range(28))}
    assert len(looks) == 28


@pytest.mark.parametrize(("suffix", "start"), [("png", PNG), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_runs_are_drawn_in_the_format_asked_for(suffix: str, start: bytes, tmp_path: Path) -> None:
    folder = record(tmp_path, "--plots", suffix, "--set", "workload.limit=10", plots=True)
    pictures = sorted(folder.glob("*.*"))
    assert [p.name for p in pictures if p.stem in ("latencies", "timeline")] == [
        f"latencies.{suffix}",
        f"timeline.{suffix}",
    ]
    assert (folder / f"timeline.{suffix}").read_bytes().startswith(start)


def test_fonts_of_a_pdf_are_embedded_as_journals_ask(tmp_path: Path) -> None:
    plot_latencies([result()], tmp_path / "x.pdf")
    data = (tmp_path / "x.pdf").read_bytes()
    assert b"/FontFile2" in data
    assert b"/Type3" not in data
