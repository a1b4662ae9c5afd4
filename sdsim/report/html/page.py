"""The page: the answer, the table, the charts in words, numbers and pictures, and what all of it rests on.

One file. plotly.js is in it, compressed, and unpacked by the browser; a content security policy lets run the page's two
scripts, known by their hashes, and forbids every request.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

import yaml

from sdsim import __version__
from sdsim.checks import doubtful
from sdsim.report.console import quality_line
from sdsim.report.html.chart import Chart, Key, run_look
from sdsim.report.html.components import component_chart
from sdsim.report.html.drafts import draft_charts
from sdsim.report.html.figures import all_figures
from sdsim.report.html.latency import latency_charts
from sdsim.report.html.load import load_charts
from sdsim.report.html.pareto import pareto_chart
from sdsim.report.html.pays import pays_charts
from sdsim.report.html.runs import Group, answer, gather, whole_scenario
from sdsim.report.html.table import table
from sdsim.report.html.traffic import traffic_charts
from sdsim.report.runs_table import runs_sheet
from sdsim.result import Result
from sdsim.statistics import mean_summary
from sdsim.steadiness import doubtful_runs
from sdsim.whole import write_file

Section = tuple[str, str, str]
"""Id, heading and body."""
DASH_ARRAYS = {"solid": "none", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}


def write_report(results: Sequence[Result], path: Path) -> None:
    """Write the report of *results* to *path*, whole or not at all. Raises ScenarioError if it cannot."""
    text = report(results)
    write_file(path, lambda draft: _write(draft, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def report(results: Sequence[Result]) -> str:
    """Return the page of *results*."""
    groups = gather(results)
    charts = _charts(groups)
    sections = [_answer(groups), _policies(groups)]
    sections += [(name, heading, _figures(found)) for name, heading, found in charts if found]
    sections += [_everything(groups), _rests_on(groups)]
    drawn = [chart.spec() for _, _, found in charts for chart in found]
    return _document(groups, sections, drawn)


def _charts(groups: Sequence[Group]) -> list[tuple[str, str, list[Chart]]]:
    several = len(groups) > 1
    pays = [chart for group in groups for chart in pays_charts(group, several)]
    drafts = [chart for group in groups for chart in draft_charts(group, several)]
    return [
        ("latency", "Latency", latency_charts(groups)),
        (
            "trade",
            "Throughput against speed",
            [pareto_chart(groups)] if sum(len(group.lines) for group in groups) > 1 else [],
        ),
        ("time", "As the traffic moves", traffic_charts(groups)),
        ("load", "As the batch grows", [*load_charts(groups), *pays]),
        ("step", "Where a step's time goes", [component_chart(groups)]),
        ("drafts", "How far drafts get", drafts),
    ]


def _answer(groups: Sequence[Group]) -> Section:
    parts = []
    for group in groups:
        said = answer(group)
        for engine, sentences in said.items():
            title = ", ".join(
                [*([group.name] if len(groups) > 1 else []), *([f"engine {engine}"] if len(said) > 1 else [])]
            )
            parts += [f"<h3>{escape(title)}</h3>"] if title else []
            parts += [f"<p>{escape(text)}</p>" for text in sentences]
        runs = {line.label: line.results for line in group.lines}
        doubts = [*doubtful(whole_scenario(group)), *doubtful_runs(runs)]
        warned = "".join(f"<li>{escape(text)}</li>" for text in doubts)
        parts += [f'<ul class="warnings">{warned}</ul>'] if warned else []
    lines = [line for group in groups for line in group.lines]
    rests = quality_line([mean_summary([r.summary for r in line.results])["data_quality"] for line in lines])
    return "answer", "The answer", "".join(parts) + f"<p>{escape(rests[0].upper() + rests[1:])}.</p>"


def _policies(groups: Sequence[Group]) -> Section:
    tables = []
    for i, group in enumerate(groups):
        seeds = len(group.lines[0].results)
        spread = f"; ± is half a 95% interval over {seeds} seeds" if seeds > 1 else ""
        sheet = runs_sheet([line.summary for line in group.lines])
        tables.append(table(sheet, f"Policies on {group.name}{spread}", f"policies-{i}"))
    return "policies", "Policies side by side", "".join(tables)


def _figures(charts: Iterable[Chart]) -> str:
    return f'<div class="charts">{"".join(map(_figure, charts))}</div>'


def _figure(chart: Chart) -> str:
    name, title = escape(chart.name), escape(chart.title)
    words = escape(f"{chart.title}. {chart.words}.", quote=True)
    keys = f'<ul class="keys">{"".join(f"<li>{_swatch(k)}{escape(k.label)}</li>" for k in chart.keys)}</ul>'
    return (
        f'<figure id="{name}"><figcaption><h3>{title}</h3><p>{escape(chart.caption)}</p></figcaption>'
        f"{keys if chart.keys else ''}"
        f'<div class="chart" id="{name}-chart" role="img" aria-label="{words}" style="height:{chart.height}px"></div>'
        f"<details><summary>Numbers: {title}</summary>{table(chart.sheet, chart.title, f'{name}-table')}</details>"
        "</figure>"
    )


def _swatch(key: Key) -> str:
    """Return a piece of the line that *key* stands for."""
    look = f'stroke="var({key.look.colour})" stroke-width="4" stroke-dasharray="{DASH_ARRAYS[key.look.dash]}"'
    return f'<svg width="26" height="10" aria-hidden="true"><line x1="0" y1="5" x2="26" y2="5" {look}/></svg>'


def _everything(groups: Sequence[Group]) -> Section:
    lines = [line for group in groups for line in group.lines]
    return "figures", "Every figure", table(all_figures(lines), "Every figure of every policy", "figures-table")


def _rests_on(groups: Sequence[Group]) -> Section:
    parts = []
    for group in groups:
        text = yaml.safe_dump(whole_scenario(group).resolved(), sort_keys=False, allow_unicode=True)
        title = f"Scenario {group.name}, as resolved"
        parts.append(f'<details><summary>{escape(title)}</summary><pre tabindex="0">{escape(text)}</pre></details>')
    seeds = sorted({int(result.summary["seed"]) for group in groups for result in group.results})
    runs = sum(len(group.results) for group in groups)
    words = f"{runs} simulated runs, seeds {', '.join(map(str, seeds))}, sdsim {__version__}."
    return "basis", "What this rests on", f"<p>{words}</p>{''.join(parts)}"


def _document(groups: Sequence[Group], sections: Sequence[Section], charts: list[dict[str, object]]) -> str:
    plotly, script, style = plotly_js(), _asset("page.js"), _asset("page.css")
    packed = base64.b64encode(gzip.compress(plotly.encode(), 9, mtime=0)).decode()
    allowed = " ".join(f"'sha256-{_hash(text)}'" for text in (script, plotly))
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
    title = escape(f"{', '.join(group.name for group in groups)} · sdsim")
    links = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections)
    bodies = "".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{escape(heading)}</h2>{body}</section>'
        for name, heading, body in sections
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<title>{title}</title><style>{style}</style></head>
<body><a class="skip" href="#answer">Skip to the answer</a>
<header><h1>{title.removesuffix(" · sdsim")}</h1><p>{escape(_headline(groups))}</p>
<button type="button" id="theme" hidden></button></header>
<div class="columns"><div class="side"><nav aria-label="Sections"><ul>{links}</ul></nav>{_run_keys(groups)}</div>
<main>{bodies}<noscript><p>The charts need JavaScript; every number is in the tables.</p></noscript></main></div>
<script type="application/json" id="charts">{embedded(charts)}</script>
<script type="text/plain" id="plotly">{packed}</script>
<script>{script}</script></body></html>
"""


def embedded(value: object) -> str:
    """Return JSON that is safe within a script element, whatever its strings hold."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _headline(groups: Sequence[Group]) -> str:
    said = []
    for scenario in (group.first.scenario for group in groups):
        draft = scenario.draft.model or scenario.draft.kind if scenario.draft else "no draft"
        said.append(f"{scenario.model} + {draft} on {scenario.replicas} x ({scenario.gpus})")
    return "; ".join(dict.fromkeys(said))


def _run_keys(groups: Sequence[Group]) -> str:
    boxes = []
    for line in (line for group in groups for line in group.lines):
        swatch = _swatch(Key(line.label, run_look(line.index)))
        box = f'<input type="checkbox" checked data-run="{line.index}">'
        boxes.append(f"<label>{box}{swatch}<span>{escape(line.label)}</span></label>")
    both = "".join(
        f'<button type="button" data-all="{all_}">{word}</button>' for all_, word in (("1", "All"), ("", "None"))
    )
    return (
        f'<fieldset id="runs"><legend>Shown in the charts</legend><div class="both" hidden>{both}</div>'
        f"{''.join(boxes)}</fieldset>"
    )


def plotly_js() -> str:
    """Return the script of plotly.js that its package ships."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
