"""The HTML report: its figures against the records, its words against mischief, its reach for everyone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdsim.errors import ScenarioError
from sdsim.report.html.latency import latency_charts
from sdsim.report.html.page import plotly_js, report
from sdsim.report.html.runs import answer, gather
from sdsim.report.numerals import number
from sdsim.report_html import main
from sdsim.result import Result
from sdsim.run import main as run_main
from sdsim.run_folder import find_runs, read_run
from sdsim.statistics import mean_summary
from tests.pages import EVIL, Page, hostile, parsed
from tests.recorded_runs import POLICIES, TIGHT, record

CHARTS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("html"), *POLICIES, "--seeds", "2", "--html")


@pytest.fixture(scope="module")
def results(folder: Path) -> list[Result]:
    return [read_run(part, "tight") for part in find_runs(folder)]


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return parsed(text)


def test_a_run_counts_once_and_seeds_must_meet(results: list[Result]) -> None:
    with pytest.raises(ScenarioError, match="off, seed 3 is there twice"):
        gather([results[0], results[0]])
    with pytest.raises(ScenarioError, match="no run"):
        gather([])
    (group,) = gather([results[0], results[3]])
    assert "share no seed" in answer(group)["ideal"][0]


def test_scenarios_are_kept_apart(results: list[Result], tmp_path: Path) -> None:
    other = read_run(record(tmp_path, "--set", "workload.rate=50/s"), "tight")
    groups = gather([*results, other])
    assert [group.name for group in groups] == ["tight", "tight 2"]
    assert [line.label for line in groups[1].lines] == ["tight 2, goodput"]
    assert [line.index for group in groups for line in group.lines] == [0, 1, 2, 3]


def test_the_figures_are_the_summarys(page: Page, folder: Path) -> None:
    runs = json.loads((folder / "summary.json").read_text())["runs"]
    rows = {row[0]: row[1:] for row in page.tables["figures-table"]}
    assert rows["figure"] == [run["policy"] for run in runs] == ["off", "fixed-3", "goodput"]
    for key, name in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("itl_s", "ITL"), ("e2e_s", "E2E")):
        for statistic in ("mean", "p50", "p90", "p99"):
            shown = [cell.split(" ±")[0] for cell in rows[f"{name} {statistic}, ms"]]
            assert shown == [number(1000 * run[key][statistic]) for run in runs]
            halves = [cell.split(" ±")[1] for cell in rows[f"{name} {statistic}, ms"]]
            for half, run in zip(halves, runs, strict=True):
                low, high = run["ci95"][key][statistic]
                assert float(half.replace(",", "")) == pytest.approx(500 * (high - low), rel=0.5, abs=1)
    assert rows["preemptions"] == [number(run["preemptions"]) for run in runs]
    assert rows["mean draft length K"] == [number(run["speculation"]["mean_draft_length"], 2) for run in runs]
    goodput = [row[page.tables["policies-0"][0].index("goodput req/s")] for row in page.tables["policies-0"][1:]]
    assert [cell.split(" ±")[0] for cell in goodput] == [number(run["goodput_rps"]) for run in runs]


def test_the_answer_is_the_verdict(page: Page, results: list[Result]) -> None:
    (group,) = gather(results)
    for sentence in answer(group)["ideal"]:
        assert sentence in page.text


def test_a_single_run_is_answered_in_a_sentence(results: list[Result]) -> None:
    found = parsed(report(results[4:5]))
    rate = number(results[4].summary["output_tokens_per_gpu_s"])
    assert f"goodput serves {rate} output tokens/s per GPU with a TTFT p99 of" in found.text


def test_everything_is_there(page: Page) -> None:
    titles = {
        "TTFT: time to first token", "Throughput against speed", "Draft length over time", "Draft length over load",
        "Speedup over batch", "Target efficiency over batch", "Step time by component",
        "Acceptance by position and class", "Acceptance length by class",
    }  # fmt: skip
    assert all(title in page.text for title in titles)
    charts = json.loads(next(body for attrs, body in page.scripts if attrs.get("id") == "charts"))
    assert {f"{chart['name']}-chart" for chart in charts} == {
        d["id"] for d in page.all("div") if d.get("role") == "img"
    }
    assert len(charts) == CHARTS
    assert all(chart["layout"][axis] for chart in charts for axis in ("xaxis", "yaxis"))


def test_charts_are_told_in_words_with_numbers(page: Page) -> None:
    for chart in (d for d in page.all("div") if d.get("role") == "img"):
        assert len(re.findall(r"\d", chart["aria-label"])) >= 2, chart["id"]
    labels = {d["id"]: d["aria-label"] for d in page.all("div") if d.get("role") == "img"}
    assert all(name in labels["ttft-chart"] for name in ("off", "fixed-3", "goodput"))


def test_the_page_is_a_document_for_keyboard_and_reader(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [a["href"].removeprefix("#") for a in page.all("a")]
    assert targets[0] == "answer"
    assert set(targets) <= set(ids)
    assert [len(page.all(tag)) for tag in ("main", "nav", "header", "h1")] == [1, 1, 1, 1]
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in zip([0, *levels], levels, strict=False))
    assert all(section["aria-labelledby"] in ids for section in page.all("section"))
    assert len(page.all("caption")) == len(page.all("table")) > 10
    assert all("scope" in th for th in page.all("th"))
    assert all(
        div.get("tabindex") == "0" and div["role"] == "region" for div in page.all("div") if "scroll" in div.values()
    )
    assert len(page.all("label")) == len(page.all("input")) == 3
    assert [len(page.all(tag)) for tag in ("fieldset", "legend")] == [1, 1]


def test_nothing_points_outside_and_only_two_scripts_may_run(text: str, page: Page) -> None:
    for _, attrs in page.tags:
        for key in ("src", "href", "action", "data", "srcset"):
            assert attrs.get(key, "#").startswith(("#", "data:")), attrs
        assert not [key for key in attrs if key.startswith("on")]
    assert "url(" not in text.partition("<body>")[0]
    (policy,) = (m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    running = [body for attrs, body in page.scripts if "type" not in attrs]
    allowed = {
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in (*running, plotly_js())
    }
    assert set(rules["script-src"].split()) == allowed
    assert len(running) == 1


def test_hostile_words_stay_words(results: list[Result], page: Page) -> None:
    found = parsed(report([hostile(results[4])]))
    assert not found.all("img")
    assert not found.all("b")
    assert len(found.scripts) == len(page.scripts)
    assert EVIL in found.text
    assert found.tables["policies-0"][1][0] == EVIL
    charts = next(body for attrs, body in found.scripts if attrs.get("id") == "charts")
    assert "<" not in charts
    assert any(EVIL.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") == t.get("name")
               for chart in json.loads(charts) for t in chart["traces"])  # fmt: skip


def test_twenty_runs_are_below_six_megabytes(results: list[Result]) -> None:
    many = [
        replace(result, summary=result.summary | {"policy": f"{result.policy}-{i}"})
        for result in results
        for i in range(7)
    ]
    assert len(gather(many)[0].lines) == 21
    assert len(report(many)) < 6e6


@pytest.mark.parametrize(
    "words",
    [("--set", "until=1us"), ("--set", "until=30ms"), ("--set", "workload.limit=1"), ("--set", "slo=null")],
)
def test_runs_with_little_in_them_are_reported(words: tuple[str, ...], tmp_path: Path) -> None:
    folder = record(tmp_path, *words, "--html", "--policy", "off", "--policy", "goodput")
    found = parsed((folder / "report.html").read_text())
    assert "NaN" not in found.text
    assert len(found.tables["policies-0"]) == 3


def test_closed_loops_and_dense_targets_are_reported(tmp_path: Path) -> None:
    loop = "workload={kind: closed, concurrency: 4, limit: 30, lengths: {prompt: 100, output: 20}}"
    iid = ("--set", "acceptance={kind: iid, rate: 0.7}", "--set", "replica.memory_fraction=0.95")
    folder = record(tmp_path, "--set", loop, *iid, "--set", "model=qwen2.5-32b", "--policy", "goodput", "--html")
    found = parsed((folder / "report.html").read_text())
    assert found.tables["arrivals-table"][1][0] == "goodput"


def test_the_command_writes_one_file(
    folder: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "r.html"
    assert main([str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text() == text
    assert [p.name for p in out.parent.iterdir()] == ["r.html"]
    assert main([str(folder / "off-seed-3"), str(folder / "goodput-seed-3")]) == 0
    assert (folder / "off-seed-3" / "report.html").stat().st_size > 1e6
    with pytest.raises(ScenarioError, match="cannot be written"):
        main([str(folder / "off-seed-3"), "--out", str(folder / "summary.json" / "x.html")])


def test_the_page_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(TIGHT)
    with pytest.raises(ScenarioError, match="--html: --json alone writes no folder"):
        run_main([str(tmp_path / "x.yaml"), "--json", "--html"])


def test_curves_of_latency_pass_through_the_summarys_median(results: list[Result]) -> None:
    single = gather(results[4:5])
    for chart in latency_charts(single):
        (line,) = (t for t in chart.traces if "fill" not in t)
        median = results[4].summary[f"{chart.name}_s"]["p50"]
        nearest = line["x"][int(np.searchsorted(line["y"], 0.5))]
        assert nearest == pytest.approx(median, rel=0.05)


def test_mean_summaries_are_what_the_page_is_made_of(results: list[Result]) -> None:
    (group,) = gather(results)
    assert group.lines[1].summary == mean_summary([r.summary for r in results[2:4]])
