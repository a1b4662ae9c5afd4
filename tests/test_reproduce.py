"""The paper reproduced: its tables, its fit, measured steps beside it, and files that users bring."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdsim.agreement.setting import Setting
from sdsim.errors import SdsimError
from sdsim.experts import Correlated
from sdsim.measurements import StepMeasurement, StepRecord
from sdsim.moesd import activated_experts, target_time
from sdsim.reproduce import main
from sdsim.reproduction import errata, h200
from sdsim.reproduction.counts import compare_counts, read_counts
from sdsim.reproduction.fitting import fit_points, paper_bounds, predicted
from sdsim.reproduction.measured import measured_rows, read_records
from sdsim.reproduction.peaks import Curves, table_rows
from sdsim.reproduction.points import Point, read_points
from sdsim.reproduction.published import published
from sdsim.reproduction.sources import peak_rows

RECORDS = Path(__file__).parent / "records"
SHARED = Path(__file__).resolve().parent.parent.parent / "shared/data"
DIGITISED, COUNTED = SHARED / "paper/moesd_fig4_digitised.csv", SHARED / "moe_overlap.csv"
SHIPPED = published().fit.parameters


def answer(*words: str | Path, capsys: pytest.CaptureFixture[str]) -> dict:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def written(tmp_path: Path, text: str, name: str = "x.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_printed_speedups_are_the_printed_times_ratio():
    """T_AR / T_SD is x in all 60 cells, to its two decimals: a slip in copying a number would show."""
    cells = published().cells
    assert len(cells) == 60
    for cell in cells:
        assert cell.t_ar_ms / cell.t_sd_ms == pytest.approx(cell.speedup, abs=0.0075), cell


def test_most_cells_of_tables_1_and_2_are_within_a_tenth():
    rows = table_rows(SHIPPED)
    assert len(rows) == 48
    assert sum(row["within"] for row in rows) >= 40
    assert all(row["why"] for row in rows if not row["within"])


def test_errors_are_those_of_the_printed_numbers():
    for row in table_rows(SHIPPED):
        assert row["predicted"] / row["printed"] - 1 == pytest.approx(row["error"])
        assert row["within"] == (abs(row["error"]) <= 0.1)


def test_the_reference_time_is_met_at_the_peak():
    """The level that `level` returns gives the reference's T_AR at a batch next to the peak that follows from it."""
    paper = published()
    batch = list(map(float, paper.sweep.batches))
    for device in paper.devices.values():
        curves = Curves(SHIPPED, device, paper.devices["2xA800"], 8, 64)
        level = curves.level(4, np.array(batch), 16.0, 1.0)
        peak = int(np.argmax(curves.speedups(4, np.array(batch), level, 1.0)))
        times = level * curves.target(np.array(batch))
        assert min(abs(int(np.argmin(abs(times - 16.0))) - peak), abs(times[peak] / 16 - 1)) <= 1


def test_a_device_with_twice_the_ridge_grows_half_as_fast():
    """Bytes and flops alone: with 2 x the ridge, 2 t tokens relate to the ridge as t tokens did."""
    paper = published()
    home = paper.devices["2xA800"]
    fast = replace(home, gpu=replace(home.gpu, flops_bf16=2 * home.gpu.flops_bf16))
    dense = replace(SHIPPED, k2=0.0, k3=0.0)
    tokens = (8.0, 60.0, 400.0)
    at_home = target_time(dense, 64, home.ridge, tokens, 8)
    twice = Curves(dense, fast, home, 8, 64).target([2 * t for t in tokens])
    assert twice == pytest.approx(at_home)


def test_the_fit_recovers_a_curve_that_lies_inside_the_bounds():
    paper = published().sweep
    grid = [Point(k, g, b, 1.0) for k in (2, 4, 8, 16) for g in paper.gammas for b in paper.batches[::2]]
    points = [p._replace(speedup=float(x)) for p, x in zip(grid, predicted(SHIPPED, grid), strict=True)]
    assert fit_points(points).rmse < 0.01


def test_bounds_are_bytes_over_bandwidth():
    """Appendix C.2: the draft once over one GPU's bandwidth, an expert of every layer over both GPUs'."""
    low, high = paper_bounds()
    assert low.k2 == pytest.approx(28 * 3 * 3584 * 2560 * 2 / (2 * 2.039e12) * 1e3)
    assert high.k2 == 5 * low.k2
    assert low.draft_bias == pytest.approx(0.494e9 * 2 / 2.039e12 * 1e3, rel=0.01)


@pytest.mark.skipif(not DIGITISED.exists(), reason="needs ../shared/data/paper")
def test_the_shipped_parameters_are_the_points_fit(capsys):
    found = answer("--points", DIGITISED, capsys=capsys)
    assert (found["fit"]["source"], found["fit"]["points"]) == ("points", published().fit.points)
    assert found["fit"]["rmse"] == pytest.approx(published().fit.rmse, rel=1e-4)
    assert found["tables"]["within"] >= 40
    assert sum(row["source"] == "paper" for row in found["sources"]) == 37
    assert 1.0 < found["fit"]["errors"]["half_sum_of_squares"] < 1.523  # Table 3 of all points


def test_without_files_it_says_what_is_lacking(capsys):
    found = answer(capsys=capsys)
    assert found["fit"]["source"] == "shipped"
    assert found["experts"] is None
    assert [line.partition(":")[0] for line in found["lacking"]][:4] == [
        "--points", "--counts", "--measured", "--measured"
    ]  # fmt: skip
    assert {row["source"] for row in found["sources"]} == {"Algorithm 1", "our model"}
    assert len(found["tables"]["rows"]) == 48


def test_h200_target_efficiency_rises_and_falls_as_the_paper_says():
    rows = h200.curve("qwen2-57b-a14b", 4, (2, 28, 256))
    low, middle, large = (row["target_efficiency"] for row in rows)
    assert low < middle > large
    dense = [row["target_efficiency"] for row in h200.curve(h200.DENSE, 4, (1, 32, 100))]
    assert dense == sorted(dense, reverse=True)


def step(gamma: int, batch: int, ms: float, **other: object) -> StepMeasurement:
    record = {"model": "qwen2-57b-a14b", "draft": "qwen2-0.5b", "gamma": gamma, "B": batch, "context": 300.0,
              "step_ms_median": ms, "alpha": 0.8, "n": 5, "engine": "ideal", "gpu": "h200"}  # fmt: skip
    return StepMeasurement(StepRecord.model_validate(record | other), 256)


def test_a_measured_speedup_is_eq_4_at_the_papers_sigma():
    (row,) = measured_rows([step(0, 8, 18.0), step(4, 8, 30.0)], Setting())
    assert row["speedup"] == pytest.approx(0.91 * 5 * 18 / 30)
    assert (row["off_moved"], row["paired"], row["source"]) == (0.0, True, "executor")
    priced = h200.curve("qwen2-57b-a14b", 4, (8,))[0]["speedup"]
    assert row["predicted_speedup"] == pytest.approx(priced, rel=0.02)  # context 300 against 256


def test_the_nearest_base_is_moved_by_its_price():
    moved, same = (measured_rows([step(0, base, 18.0), step(4, 8, 30.0)], Setting())[0] for base in (4, 8))
    assert not moved["paired"]
    assert moved["off_s"] == pytest.approx(same["off_s"] * (1 + moved["off_moved"]))
    assert 0.2 < moved["off_moved"] < 0.8  # 42 experts instead of 26


def test_a_peak_is_of_paired_steps_where_there_are_any():
    rows = [
        {"source": "executor", "device": "h200", "gamma": 4, "batch": b, "speedup": x, "paired": paired}
        for b, x, paired in ((8, 3.0, False), (16, 2.5, True), (32, 2.6, True))
    ]
    assert [row["batch"] for row in peak_rows(rows) if row["source"] == "executor"] == [32]
    assert [row["batch"] for row in peak_rows(rows[:1]) if row["source"] == "executor"] == [8]


def test_a_step_without_a_base_is_refused():
    with pytest.raises(SdsimError, match="no step with gamma 0"):
        measured_rows([step(4, 8, 30.0)], Setting())


def test_the_executors_speedups_are_those_predicted():
    rows = [r for r in read_records(sorted(RECORDS.glob("executor-*.jsonl"))) if r["paired"] and r["speedup"]]
    errors = sorted(abs(row["predicted_speedup"] / row["speedup"] - 1) for row in rows)
    assert len(rows) > 15
    assert errors[len(errors) // 2] < 0.05


HEADER = "model,E,k,t,kind,unique_measured\n"


def counts_file(tmp_path: Path, law: Correlated) -> Path:
    lines = [f"m,64,8,{t},consecutive decode,{law.distinct_uniform_rows(1, t):.6f}" for t in (2, 4, 8, 16)]
    lines += [f"m,64,8,{t},different requests,{law.distinct_uniform_rows(t, t):.6f}" for t in (2, 8, 32)]
    lines += [f"m,64,8,32,batch 8 x window 4,{law.distinct_uniform_rows(8, 32):.6f}", "m,64,8,4,random,26.0"]
    return written(tmp_path, HEADER + "\n".join(lines) + "\n")


@pytest.mark.parametrize(("within", "between"), [(1.0, 1.0), (0.7, 0.9), (0.5, 0.6)])
def test_counts_of_a_law_give_its_knobs(within, between, tmp_path):
    found = compare_counts(read_counts(counts_file(tmp_path, Correlated(64, 8, within, between))))
    (model,) = found["models"]
    assert (model["within"], model["between"]) == (pytest.approx(within, abs=0.01), pytest.approx(between, abs=0.01))
    assert model["correlated_rms"] < 1e-3
    assert model["random_tokens_worst"] == pytest.approx(activated_experts(4, 64, 8) / 26.0 - 1)
    assert (model["independent_worst"] < 1e-5) == (within == 1.0)


def test_counts_that_do_not_say_how_their_tokens_hang_together_are_compared_and_fitted_to_nothing(tmp_path):
    """Such as those of Figure 1: batches of HumanEval and of MT-Bench."""
    lines = "m,64,6,10,HumanEval,29\nm,64,6,30,HumanEval,49\n"
    (model,) = compare_counts(read_counts(written(tmp_path, HEADER + lines)))["models"]
    assert model["independent_worst"] == pytest.approx(float(activated_experts(10, 64, 6)) / 29 - 1)
    assert (model["points"], model["within"], model["between"], model["correlated_rms"]) == (2, None, None, None)


@pytest.mark.skipif(not COUNTED.exists(), reason="needs ../shared/data")
def test_independence_fails_where_models_were_counted():
    models = compare_counts(read_counts(COUNTED))["models"]
    assert all(model["independent_worst"] > 0.05 for model in models)
    assert all(model["correlated_rms"] < model["independent_rms"] for model in models if model["correlated_rms"])


def test_line_11_as_printed_cannot_give_the_printed_speedups():
    """With ar_time in the denominator no sigma and gamma give more than sigma (gamma + 1) / 2 once verify >= ar."""
    row = next(r for r in errata.errata({"errors": None}, None) if "line 11" in r["where"])
    many = sum(c.speedup >= c.sigma * (c.gamma + 1) / 2 for c in published().cells)
    assert f"which {many} printed cells" in row["found"]


@pytest.mark.parametrize(("line", "said"), [("m,8,8,4,random tokens here,8", 0), ("m,64,8,4,consecutive,26.48", 0),
                                           ("m,64,8,4,consecutive,20", 1), ("m,8,8,4,consecutive,8", 0)])  # fmt: skip
def test_independence_is_an_erratum_where_counts_are_lower(line, said, tmp_path):
    counts = compare_counts(read_counts(written(tmp_path, HEADER + line + "\n")))
    assert sum("eq. 8" in row["where"] for row in errata.errata({"errors": None}, counts)) == said


POINTS = "K,gamma,B,speedup\n"
BAD_POINTS = [
    ("", "columns none"),
    ("a,b\n1,2\n", "columns a, b"),
    (POINTS, "no row to use"),
    (POINTS + "8,4,1\n", ":2: found 3 fields"),
    (POINTS + "8,3,1,1.5\n", ":2: gamma: found '3'"),
    (POINTS + "65,4,1,1.5\n", ":2: K: "),
    (POINTS + "8,4,0,1.5\n", ":2: B: "),
    (POINTS + "8,4,1,fast\n", ":2: speedup: "),
    (POINTS + "8,4,1,-1\n", ":2: speedup: "),
    (POINTS + "8,4,1,inf\n", ":2: speedup: "),
]


@pytest.mark.parametrize(("text", "said"), BAD_POINTS)
def test_bad_points_are_placed(text, said, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(SdsimError) as error:
        read_points(path)
    assert str(path) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("m,64,8,4,consecutive,33", "allowed: from 8 (k) to 32"),
        ("m,64,8,4,batch 2 x window 4,20", "batch x window = t"),
        ("m,64,65,4,consecutive,20", "k: "),
        ("m,64,8,four,consecutive,20", "t: "),
    ],
)
def test_bad_counts_are_placed(line, said, tmp_path):
    with pytest.raises(SdsimError) as error:
        read_counts(written(tmp_path, HEADER + line + "\n"))
    assert said in str(error.value)


def test_hidden_points_and_few_points(tmp_path, capsys):
    path = written(tmp_path, POINTS + "8,4,8,2.18\n8,4,12,\n8,4,16,None\n")
    assert read_points(path) == [Point(8, 4, 8, 2.18)]
    found = answer("--points", path, capsys=capsys)
    assert found["fit"]["parameters"] == answer(capsys=capsys)["fit"]["parameters"]
    assert any("too few" in line for line in found["lacking"])


def test_the_folder_holds_the_answer_and_every_picture(tmp_path, capsys):
    """In the format asked for, with names that look like markup as they are."""
    out, suffix = tmp_path / "moesd", "svg"
    record = RECORDS / "executor-qwen2-57b-a14b.jsonl"
    counts = written(tmp_path, HEADER + "[red]$\\frac{$,64,8,4,consecutive,20\n")
    words = ["--measured", record, "--counts", counts, "--out", out, "--plots", suffix]
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    assert "of 48 cells within 10%" in shown
    assert "[red]$\\frac{$" in shown
    figures = [f"figure-{i}.{suffix}" for i in range(1, 5)]
    assert sorted(p.name for p in out.iterdir()) == [
        *figures,
        "reproduction.json",
        f"sources.{suffix}",
        f"tables.{suffix}",
    ]
    found = json.loads((out / "reproduction.json").read_text())
    assert {row["source"] for row in found["sources"]} == {"Algorithm 1", "our model", "executor"}
    with pytest.raises(SdsimError, match="exists already"):
        main(["--out", str(out)])
