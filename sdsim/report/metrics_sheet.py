"""A running engine's acceptance and load as text, and as lines of a scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsim.report.numerals import number, percent
from sdsim.report.sheet import HEADING, Column, Sheet

FIGURES = {
    "mean_batch": "batch",
    "running": "running",
    "waiting": "waiting",
    "requests_per_s": "req/s",
    "output_tokens_per_s": "tok/s",
    "prompt_tokens": "prompt",
    "output_tokens": "output",
    "preemptions": "preempted",
}


def print_metrics(console: Console, found: Mapping[str, Any]) -> None:
    """Print what `sdsim.engine_metrics.estimate` returned."""
    seconds, acceptance, load = found["seconds"], found["acceptance"], found["load"]
    span = "an unknown time" if seconds is None else f"{number(seconds)} s"
    console.print(Text(f"{found['engine']}, {span}", style=HEADING))
    console.print()
    columns = [Column(heading, [number(load[key])]) for key, heading in FIGURES.items()]
    Sheet((*columns, Column("KV", [percent(load["kv_used"])])), keys=0).show(console)
    if acceptance is not None:
        length, drafted = number(acceptance["length"]), number(acceptance["mean_draft_length"])
        console.print(
            Text(f"acceptance length {length} tokens a step, {drafted} drafts; rate {number(acceptance['rate'])}")
        )
        if acceptance["positions"]:
            console.print()
            _positions(acceptance["positions"]).show(console)
    for line in scenario_lines(found):
        console.print(Text(line), soft_wrap=True)
    console.print()
    for warning in found["warnings"]:
        console.print(Text(warning, style="dim"), soft_wrap=True)


def _positions(positions: Sequence[Mapping[str, Any]]) -> Sheet:
    return Sheet(
        (
            Column("position", [str(p["position"]) for p in positions]),
            Column("accepted", [f"{p['accepted']:,}" for p in positions]),
            Column("of drafts", [_between(*p["tried"]) for p in positions]),
            Column("conditional, 95%", [_rate(p["conditional"]) for p in positions]),
            Column("unconditional, 95%", [_rate(p["unconditional"]) for p in positions]),
        )
    )


def _between(low: float, high: float) -> str:
    few, many = f"{low:,.0f}", f"{high:,.0f}"
    return few if few == many else f"{few} to {many}"


def _rate(rate: Mapping[str, float | None]) -> str:
    return f"{number(rate['rate'], 3)}  {number(rate['low'], 3)} to {number(rate['high'], 3)}"


def scenario_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the keys of a scenario that *found* tells, for a file of one's own; none that it does not."""
    acceptance, load, lines = found["acceptance"], found["load"], []
    positions = acceptance["positions"] if acceptance else []
    rates = [p["unconditional"]["rate"] for p in positions]
    if rates and None not in rates:
        lines.append(f"acceptance: {{kind: positions, rates: [{', '.join(f'{r:.4f}' for r in rates)}]}}")
    elif acceptance and acceptance["rate"] is not None:
        lines.append(f"acceptance: {{kind: iid, rate: {acceptance['rate']:.4f}}}")
    rate, prompt, output = (load[key] for key in ("requests_per_s", "prompt_tokens", "output_tokens"))
    if rate and prompt and output:
        lengths = f"{{prompt: {round(prompt)}, output: {max(round(output), 1)}}}"
        lines.append(f"workload: {{kind: poisson, rate: {rate:.4g}/s, limit: 10000, lengths: {lengths}}}")
    return lines
