"""Where speculation pays: speedup and target efficiency over batch, a line a draft length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.acceptance import make_acceptance
from sdsim.metrics import Columns
from sdsim.policies import get_policy
from sdsim.policy import FloatArray
from sdsim.report.html.chart import Chart, Key, Look, axis_from_zero, curve, dots
from sdsim.report.html.load import batch_axis
from sdsim.report.html.runs import Group, Line
from sdsim.report.numerals import number
from sdsim.report.sheet import Column, Sheet
from sdsim.result import Result
from sdsim.simulation import make_system

MOST_CURVES = 7
BATCHES = sorted({round(2 ** (i / 2)) for i in range(19)})
QUOTED = (1, 8, 32, 128)
SPEEDUP = "Speedup over batch", "tokens/s over OFF", "Above 1 drafting pays"
EFFICIENCY = "Target efficiency over batch", "target time, OFF over K", "At 1 verifying is free"
ONE = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": {"color": "--text", "width": 1}}


def pays_charts(group: Group, several: bool) -> list[Chart]:
    """Return both charts for each engine of *group*, or none where nothing drafts.

    *several* groups have their names in the titles.
    """
    lengths = drafted(group)
    if not lengths or group.first.scenario.acceptance is None:
        return []
    context = mean_context([result.requests for result in group.results])
    engines = {str(line.results[0].summary["engine"]): line for line in reversed(group.lines)}
    charts: list[Chart] = []
    for engine, line in reversed(engines.items()):
        where = ", ".join([*([group.name] if several else []), *([engine] if len(engines) > 1 else [])])
        charts += _pair(line, f"{where}: " if where else "", engine, lengths, context)
    return charts


def _pair(line: Line, where: str, engine: str, lengths: Sequence[int], context: float) -> list[Chart]:
    batches = [batch for batch in BATCHES if batch <= line.results[0].scenario.replica.max_num_seqs]
    given = f"at a context of {context:,.0f} tokens, without prompts, on engine {engine}"
    priced = price(line.results[0], batches, lengths, context)
    charts = []
    for (title, label, reading), values in zip((SPEEDUP, EFFICIENCY), priced, strict=True):
        name = f"{title.partition(' over')[0].replace(' ', '-').lower()}-{line.index}"
        caption = f"{reading}; {given}, as the latency model prices it."
        traces, keys, sheet, words = _curves(batches, lengths, values)
        y, layout = axis_from_zero(label, traces, least=1.0), {"shapes": [ONE]}
        charts.append(Chart(name, where + title, caption, words, traces, batch_axis(), y, sheet, keys, layout=layout))
    return charts


def drafted(group: Group) -> list[int]:
    """Return the draft lengths that the group's policies may choose, evenly thinned to a few."""
    specs = [line.results[0].scenario.policies[0] for line in group.lines]
    policies = [get_policy(spec.kind, spec.parameters) for spec in specs]
    found = sorted({k for p in policies for k in getattr(p, "lengths", ()) if k and getattr(p, "loads_drafter", True)})
    stride = -(-len(found) // MOST_CURVES)
    return found[::-1][:: max(stride, 1)][::-1]


def mean_context(tables: Sequence[Columns]) -> float:
    """Return the mean stored tokens of a request half way through its output, weighted by its output."""
    output = np.concatenate([t["output_tokens"] for t in tables])
    middle = np.concatenate([t["prompt_tokens"] for t in tables]) + output / 2
    return float(np.average(middle, weights=output)) if len(output) else 1.0


def price(
    result: Result, batches: Sequence[int], lengths: Sequence[int], context: float
) -> tuple[FloatArray, FloatArray]:
    """Return (lengths, batches) speedup and target efficiency at the acceptance of the run's scenario."""
    scenario = result.scenario
    law = make_acceptance(scenario.acceptance, scenario.seed, result.class_names)
    prices = make_system(scenario).prices
    off = [prices.cost(batch, 0, context) for batch in batches]
    on = [[prices.cost(batch, length, context) for batch in batches] for length in lengths]
    tokens = np.array([law.tokens_per_step(length) for length in lengths])[:, None]
    seconds = np.array([[cost.seconds for cost in row] for row in on])
    target = np.array([[cost.target_s for cost in row] for row in on])
    return tokens * [cost.seconds for cost in off] / seconds, np.array([cost.target_s for cost in off]) / target


def _curves(
    batches: Sequence[int], lengths: Sequence[int], values: FloatArray
) -> tuple[list[dict[str, object]], list[Key], Sheet, str]:
    """Return a line a draft length, their legend, their table and what they say."""
    traces, keys, words = [], [], []
    for i, (length, row) in enumerate(zip(lengths, values, strict=True)):
        key, peak = Key(f"K = {length}", Look(f"--length-{i}")), int(np.argmax(row))
        keys.append(key)
        traces.append(curve(np.array(batches, dtype=float), row, key.label, key.look, **dots(key.look)))
        span = f"from {row[0]:.2f} at batch {batches[0]} to {row[-1]:.2f} at {batches[-1]}"
        words.append(f"{key.label} {span}, highest {row[peak]:.2f} at {batches[peak]}")
    quoted = {batch: batches.index(batch) for batch in QUOTED if batch in batches}
    columns = [Column("draft length", [key.label for key in keys], names=True)]
    columns += [Column(f"batch {batch}", [number(row[i], 2) for row in values]) for batch, i in quoted.items()]
    return traces, keys, Sheet(tuple(columns)), "; ".join(words)
