"""How far drafts got: acceptance by position and class, and tokens per verify step by class and policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sdsim.chains import Chains, chains_by_class
from sdsim.report.html.chart import (
    Chart,
    Key,
    Look,
    Trace,
    axis,
    axis_from_zero,
    dots,
    numbers,
    plain,
    run_look,
    seeded_curve,
)
from sdsim.report.html.runs import Group, Line, names
from sdsim.report.numerals import number, percent
from sdsim.report.sheet import Column, Sheet

Drafted = Sequence[Mapping[str, Chains]]
"""Chains by class, one mapping a seed."""
COLOURS = 7


def draft_charts(group: Group, several: bool) -> list[Chart]:
    """Return the charts of *group*, or none where nothing was drafted."""
    drafted = {line: [chains_by_class(result) for result in line.results] for line in group.lines}
    drafted = {line: found for line, found in drafted.items() if all(found)}
    if not drafted:
        return []
    where = f"{group.name}: " if several else ""
    deepest = max(drafted, key=lambda line: min(_depth(found) for found in drafted[line]))
    return [_by_position(where, deepest, drafted[deepest]), _by_class(where, drafted)]


def _depth(found: Mapping[str, Chains]) -> int:
    return max(len(chains.accepted) for chains in found.values())


def _by_position(where: str, line: Line, drafted: Drafted) -> Chart:
    positions = np.arange(1, min(map(_depth, drafted)) + 1)
    classes = [name for name in drafted[0] if all(name in found for found in drafted)]
    keys = [Key(name, Look(f"--length-{i % COLOURS}")) for i, name in enumerate(classes)]
    traces: list[Trace] = []
    rows = []
    for key in keys:
        values = np.stack([found[key.label].accepted[: len(positions)] for found in drafted])
        traces += seeded_curve(positions.astype(float), values, key.label, key.look, **dots(key.look))
        rows.append([percent(share) for share in values.mean(axis=0).tolist()])
    columns = [Column("class", classes, names=True)]
    columns += [Column(f"draft {j}", [row[j - 1] for row in rows]) for j in positions.tolist()]
    words = "; ".join(f"class {name} {', '.join(row)}" for name, row in zip(classes, rows, strict=True))
    caption = (
        "Chance that a draft and all before it are accepted. From the coins of the run's requests, the same under "
        f"every policy, weighted by the verify steps under {line.label}, whose drafts are the longest."
    )
    x = axis("position in the draft", tickvals=positions.tolist())
    y = axis("accepted", range=[0, 1], tickformat=".0%")
    title, name = f"{where}Acceptance by position and class", f"positions-{line.index}"
    return Chart(name, title, caption, words, traces, x, y, Sheet(tuple(columns)), keys)


def _by_class(where: str, drafted: Mapping[Line, Drafted]) -> Chart:
    lines, runs = list(drafted), list(drafted.values())
    classes = [name for name in runs[0][0] if all(name in one for found in runs for one in found)]
    lengths = {line: [_mean_length(found, name) for name in classes] for line, found in drafted.items()}
    traces: list[Trace] = []
    for line, means in lengths.items():
        look = run_look(line.index)
        bars = {"type": "bar", "x": [plain(name) for name in classes], "y": numbers(np.array(means))}
        marker = {"color": look.colour}
        traces.append({**bars, "name": plain(line.label), "marker": marker, "meta": {"run": line.index}})
    columns = [names(lines)]
    columns += [Column(n, [number(means[i], 2) for means in lengths.values()]) for i, n in enumerate(classes)]
    words = "; ".join(
        f"{line.label} {', '.join(f'{n} {m:.2f}' for n, m in zip(classes, means, strict=True))}"
        for line, means in lengths.items()
    )
    caption = (
        "Output tokens after the first per decode step of a request, as recorded, steps without drafts included; 1 is "
        "decoding without any."
    )
    x, y = {"type": "category", "automargin": True}, axis_from_zero("tokens per decode step", traces)
    title, name = f"{where}Acceptance length by class", f"classes-{lines[0].index}"
    return Chart(name, title, caption, words, traces, x, y, Sheet(tuple(columns)))


def _mean_length(drafted: Drafted, name: str) -> float:
    return float(np.mean([found[name].acceptance_length for found in drafted]))
