"""Every figure of every line in one sheet: a row a figure, a column a line."""

from __future__ import annotations

from collections.abc import Sequence

from sdsim.report.html.runs import Line
from sdsim.report.numerals import number, with_interval
from sdsim.report.run_block import LATENCIES, STATISTICS, facts_of
from sdsim.report.runs_table import interval
from sdsim.report.sheet import Column, Sheet

MS = 1000.0


def all_figures(lines: Sequence[Line]) -> Sheet:
    """Return latencies, ms, by percentile, and the facts of each block, with intervals where there are seeds."""
    columns = [_figures(line) for line in lines]
    names = Column("figure", [name for name, _ in columns[0]], names=True)
    cells = [Column(line.label, [text for _, text in found]) for line, found in zip(lines, columns, strict=True)]
    return Sheet((names, *cells))


def _figures(line: Line) -> list[tuple[str, str]]:
    run = line.summary
    found = []
    for key, name in LATENCIES.items():
        for statistic in STATISTICS:
            value = run[key][statistic]
            text = number(None) if value is None else with_interval(value, interval(run, key, statistic), MS)
            found.append((f"{name} {statistic}, ms", text))
    for facts in facts_of(run).values():
        found += [(name, text) for name, text in facts if not name.startswith("simulated")]
    return [*found, ("simulated, s", number(float(run["simulated_s"])))]
