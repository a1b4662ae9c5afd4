"""The runs of a report, brought together: one line a policy, its seeds behind it; one group a scenario."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sdsim.errors import ScenarioError
from sdsim.metrics import Columns
from sdsim.policy import FloatArray
from sdsim.report.numerals import number, percent, time_unit, times
from sdsim.report.sheet import Column
from sdsim.result import Result
from sdsim.scenario import Scenario
from sdsim.statistics import mean_summary
from sdsim.verdict import compare, verdict

OWN_KEYS = ("policy", "engine", "seed", "seeds")
"""Keys of a scenario in which the runs of one group may differ."""
Summary = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Line:
    """One policy on one engine and scenario: its runs by ascending seed, drawn as one line."""

    label: str
    results: tuple[Result, ...]
    index: int
    """Its place among all lines of the report, which sets its colour."""

    @cached_property
    def summary(self) -> Summary:
        """Means over the seeds, with intervals, as `--json` gives them."""
        return mean_summary([result.summary for result in self.results])

    def over_seeds(self, values: Callable[[Result], FloatArray]) -> FloatArray:
        """Return (seeds, points) what *values* gives for each run."""
        return np.stack([values(result) for result in self.results])


@dataclass(frozen=True, eq=False)
class Group:
    """The lines of one scenario."""

    name: str
    lines: tuple[Line, ...]

    @property
    def results(self) -> list[Result]:
        """All runs."""
        return [result for line in self.lines for result in line.results]

    @property
    def first(self) -> Result:
        """The first run, whose scenario is everyone's but for policy, engine and seed."""
        return self.lines[0].results[0]


@dataclass
class _Gathering:
    name: str
    runs: dict[tuple[str, str], list[Result]] = field(default_factory=dict)


def names(lines: Sequence[Line]) -> Column:
    """Return the column of a table that names *lines*."""
    return Column("policy", [line.label for line in lines], names=True)


def gather(results: Sequence[Result]) -> tuple[Group, ...]:
    """Return the groups of *results*, in their order. Raises ScenarioError if one run is there twice, or none is."""
    if not results:
        raise ScenarioError("report: no run; allowed: one or more run folders; name one")
    found: dict[str, _Gathering] = {}
    for result in results:
        shared = {key: value for key, value in result.scenario.resolved().items() if key not in OWN_KEYS}
        group = found.setdefault(repr(shared), _Gathering(result.scenario.name))
        runs = group.runs.setdefault((result.policy, str(result.summary["engine"])), [])
        if any(other.summary["seed"] == result.summary["seed"] for other in runs):
            which = f"{result.policy}, seed {result.summary['seed']}"
            raise ScenarioError(f"{group.name}: {which} is there twice; allowed: each run once; leave one out")
        runs.append(result)
    names = _told_apart([group.name for group in found.values()])
    groups: list[Group] = []
    for name, group in zip(names, found.values(), strict=True):
        start = sum(len(g.lines) for g in groups)
        groups.append(Group(name, _lines(group, name if len(found) > 1 else "", start)))
    return tuple(groups)


def _told_apart(names: list[str]) -> list[str]:
    """Return *names*, a number behind the second and later of one name."""
    return [name if name not in names[:i] else f"{name} {names[:i].count(name) + 1}" for i, name in enumerate(names)]


def _lines(group: _Gathering, name: str, start: int) -> tuple[Line, ...]:
    engines = {engine for _, engine in group.runs}
    lines = []
    for i, ((policy, engine), runs) in enumerate(group.runs.items()):
        label = ", ".join([*([name] if name else []), policy, *([engine] if len(engines) > 1 else [])])
        lines.append(Line(label, tuple(sorted(runs, key=lambda r: int(r.summary["seed"]))), start + i))
    return tuple(lines)


def whole_scenario(group: Group) -> Scenario:
    """Return the scenario that asks for all runs of *group* at once."""
    scenarios = [line.results[0].scenario for line in group.lines]
    policies = tuple(scenario.policies[0] for scenario in scenarios)
    distinct = tuple(spec for i, spec in enumerate(policies) if spec not in policies[:i])
    seeds = sorted({int(result.summary["seed"]) for result in group.results})
    engines = tuple(dict.fromkeys(scenario.engines[0] for scenario in scenarios))
    update = {"policies": distinct, "engines": engines, "seed": seeds[0], "seeds": len(seeds)}
    return group.first.scenario.model_copy(update=update)


def answer(group: Group) -> dict[str, list[str]]:
    """Return the sentences that answer the group's question by engine, over the seeds that all its policies share."""
    engines = dict.fromkeys(str(line.results[0].summary["engine"]) for line in group.lines)
    return {e: _said([ln for ln in group.lines if ln.results[0].summary["engine"] == e]) for e in engines}


def _said(lines: Sequence[Line]) -> list[str]:
    alone = [_one(lines[0])] if len(lines) == 1 else []
    shared = set.intersection(*({r.summary["seed"] for r in line.results} for line in lines))
    if not shared:
        return ["The policies share no seed, so they are not compared; run them with the same seeds."]
    runs = [r for line in lines for r in line.results if r.summary["seed"] in shared]
    return [*alone, *verdict(compare(runs[0].scenario, runs))]


def _one(line: Line) -> str:
    """Say what a single policy achieved."""
    run = line.summary
    rate, p99 = run["output_tokens_per_gpu_s"], run["ttft_s"]["p99"]
    if rate is None or p99 is None:
        return f"{run['policy']} finished no request."
    scale, unit = time_unit([p99])
    met = "" if run["slo_attainment"] is None else f" and {percent(run['slo_attainment'])} of requests within the SLOs"
    served = f"{number(float(rate))} output tokens/s per GPU"
    return f"{run['policy']} serves {served} with a TTFT p99 of {times(p99, scale)} {unit}{met}."


def counted(table: Columns, column: str, warmup_s: float) -> Columns:
    """Return the rows of *table* that the summary counts: those whose *column* is not before the warm-up's end."""
    kept = table[column] >= warmup_s
    return {name: values[kept] for name, values in table.items()}
