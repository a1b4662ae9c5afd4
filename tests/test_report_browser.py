"""The HTML report in a headless Chromium: what is drawn, asked for, clicked and typed; and its colours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sdsim.report.html.page import report
from sdsim.report.numerals import number
from sdsim.result import Result
from sdsim.run_folder import find_runs, read_run
from tests.chromium import ABSENT, PROGRAM, Chromium
from tests.pages import EVIL, hostile
from tests.recorded_runs import POLICIES, record

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


def palettes() -> list[dict[str, str]]:
    css = (Path(__file__).resolve().parent.parent / "sdsim/report/html/page.css").read_text()
    return [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root[^{]*{([^}]*)}", css)]


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_lines_stand_out_in_both_themes(theme: int) -> None:
    colours = palettes()[theme]
    assert set(colours) == set(palettes()[0])
    for ground in ("--paper", "--panel"):
        for name in ("--text", "--quiet", "--link"):
            assert contrast(colours[name], colours[ground]) >= 4.5, name
        for name in colours:
            if re.fullmatch(r"--(run|part|length)-\d|--edge", name):
                low = 2.3 if name == "--length-0" else 3.0
                assert contrast(colours[name], colours[ground]) >= low, (name, ground)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if PROGRAM is None:
        pytest.skip(ABSENT)
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def opened(browser: Chromium, path: Path, width: int = 1400, dark: bool = False) -> None:
    browser.look(width, dark)
    browser.open(path)
    browser.until("document.documentElement.dataset.drawn")


COUNT = "document.querySelectorAll('.chart .main-svg').length > 0 && document.querySelectorAll('.chart').length"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_drawn_without_a_word_or_a_request(browser: Chromium, folder: Path, width: int, dark: bool) -> None:
    path = folder / "report.html"
    opened(browser, path, width, dark)
    assert browser.complaints == []
    assert browser.requests == [path.as_uri()]
    assert browser.ask(COUNT) == CHARTS
    assert browser.ask("[...document.querySelectorAll('.chart')].every((c) => c.querySelector('.xy path, .xy .point'))")
    assert browser.ask(OVERFLOW) == 0
    assert browser.ask("document.documentElement.dataset.drawn") == ("dark" if dark else "light")
    assert browser.ask(CLIPPED) == []
    assert browser.ask(TOUCHING) == []


TOUCHING = """[...document.querySelectorAll('.chart')].flatMap((chart) => ['.xtick', '.ytick'].flatMap((kind) => {
  const all = [...chart.querySelectorAll(kind + ' text')].map((t) => t.getBoundingClientRect());
  const boxes = all.filter((r) => r.width);
  const before = (a, b) => a.right + 2 < b.left || a.bottom <= b.top + 2;
  const apart = (a, b) => before(a, b) || before(b, a);
  return boxes.some((a, i) => boxes.slice(i + 1).some((b) => !apart(a, b))) ? [chart.id + kind] : [];
}))"""


CLIPPED = """[...document.querySelectorAll('.chart')].flatMap((chart) => {
  const box = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('text')].filter((t) => {
    const r = t.getBoundingClientRect();
    return r.width && (r.left < box.left - 1 || r.right > box.right + 1 || r.bottom > box.bottom + 1);
  }).map((t) => chart.id + ': ' + t.textContent);
})"""


def test_the_browser_shows_the_summarys_numbers(browser: Chromium, folder: Path) -> None:
    opened(browser, folder / "report.html")
    runs = json.loads((folder / "summary.json").read_text())["runs"]
    cells = browser.ask(
        "[...document.querySelectorAll('#figures-table tbody tr')].map((r) => r.innerText.split('\\t'))"
    )
    shown = {row[0]: row[1:] for row in cells}
    assert [c.split(" ±")[0] for c in shown["TTFT p99, ms"]] == [number(1000 * r["ttft_s"]["p99"]) for r in runs]
    bars = browser.ask("document.getElementById('components-chart').data.map((t) => t.x)")
    steps = [sum(bar[i] for bar in bars) for i in range(3)]
    spoken = browser.ask("document.getElementById('components-chart').getAttribute('aria-label')")
    assert [number(s) for s in steps] == re.findall(r"([\d.,]+) ms", spoken)
    times = browser.ask("document.getElementById('ttft-chart').data.filter((t) => t.name).map((t) => t.name)")
    assert times == ["off", "fixed-3", "goodput"]


def test_the_keyboard_skips_toggles_and_hides(browser: Chromium, folder: Path) -> None:
    opened(browser, folder / "report.html")
    browser.press("Tab", 9)
    assert browser.ask("document.activeElement.className") == "skip"
    assert browser.ask("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Tab", 9)
    assert browser.ask("document.activeElement.innerText") == "Dark theme"
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    browser.press("Enter", 13)
    browser.until("document.documentElement.dataset.drawn === 'dark'")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") != ground
    assert browser.ask("document.activeElement.innerText") == "Light theme"
    browser.ask("document.querySelector('#runs input').focus()")
    browser.press(" ", 32)

    names = "document.getElementById('tpot-chart').data.filter((t) => t.name).map((t) => t.name).join()"
    browser.until(f"{names} === 'fixed-3,goodput'")
    browser.until("document.getElementById('components-chart').data[0].y.length === 2")
    assert browser.complaints == []


def test_hostile_words_do_nothing_in_a_browser(browser: Chromium, results: list[Result], tmp_path: Path) -> None:
    path = tmp_path / "evil.html"
    path.write_text(report([hostile(results[4])]))
    opened(browser, path)
    assert browser.complaints == []
    assert browser.requests == [path.as_uri()]
    assert browser.ask("window.evil") is None
    assert browser.ask("document.querySelectorAll('main img, .chart a').length") == 0
    assert browser.ask("document.querySelector('#components-chart .ytick').textContent") == EVIL
    assert browser.ask(OVERFLOW) == 0


def test_twenty_runs_open_within_three_seconds_of_work(
    browser: Chromium, results: list[Result], tmp_path: Path
) -> None:
    many = [replace(r, summary=r.summary | {"policy": f"{r.policy}-{i}"}) for r in results for i in range(7)]
    path = tmp_path / "many.html"
    path.write_text(report(many))
    browser.send("Performance.enable")
    opened(browser, path)
    metrics = {m["name"]: m["value"] for m in browser.send("Performance.getMetrics")["metrics"]}
    assert metrics.get("ThreadTime", metrics["TaskDuration"]) < 3
    assert browser.complaints == []


def test_charts_that_cannot_be_drawn_say_so(browser: Chromium, text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    path.write_text(re.sub(r'(id="plotly">)[^<]{1000}', r"\1", text))
    browser.look(1400)
    browser.open(path)
    browser.until("document.querySelector('[role=alert]') !== null")
    assert "Every number is in the tables." in browser.ask("document.querySelector('[role=alert]').innerText")
