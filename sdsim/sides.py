"""The sides of a comparison: runs that differ in their seed alone, each side held against its counterpart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdsim.errors import ScenarioError
from sdsim.experiment import told_apart
from sdsim.pairs import FEW, Figures, differences
from sdsim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what it came from, its policy's label, and its figures by class."""

    source: str
    """A file or folder."""
    scenario: Scenario
    """Of one policy, engine and seed."""
    label: str
    figures: dict[str | None, Figures]

    @property
    def policy(self) -> str:
        """The policy with its parameters."""
        return json.dumps(self.scenario.policies[0].model_dump(), sort_keys=True)

    @property
    def engine(self) -> str:
        """The engine."""
        return self.scenario.engines[0]


@dataclass(frozen=True, slots=True)
class Side:
    """Runs of one source, policy and engine, by seed."""

    name: str
    head: Run
    runs: dict[int, Run]


def sides(runs: Sequence[Run]) -> list[Side]:
    """Return the sides of *runs*. Raises ScenarioError for fewer than two."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.source, run.engine, run.policy), []).append(run)
    if len(groups) < 2:
        raise ScenarioError(
            f"compare: found one side, {runs[0].label} of {runs[0].source}; allowed: two different ones or more; "
            "name another, such as a policy with --scenario"
        )
    names = _names([found[0] for found in groups.values()])
    seeds = ({run.scenario.seed: run for run in found} for found in groups.values())
    return [Side(name, next(iter(found.values())), found) for name, found in zip(names, seeds, strict=True)]


def _names(heads: Sequence[Run]) -> list[str]:
    """Return what tells each side from the others of source, policy and engine."""
    stems = {run.source: Path(run.source).stem for run in heads}
    if len(set(stems.values())) < len(stems):
        stems = {source: source for source in stems}
    labels = told_apart((run.label, run.scenario.policies[0]) for run in heads)
    columns = [[stems[run.source] for run in heads], labels, [Path(run.engine).stem for run in heads]]
    telling = [column for column in columns if len(set(column)) > 1]
    return [" ".join(words) for words in zip(*telling, strict=True)]


def compare(found: Sequence[Side]) -> dict[str, Any]:
    """Return the comparisons of *found*, and what limits them.

    Sides of one source are held against its first; those of further sources each against the same policy and engine of
    the first source, or against its only side.
    """
    first = [side for side in found if side.head.source == found[0].head.source]
    pairs = [(first[0], side) for side in first[1:]] if len(first) == len(found) else []
    pairs = pairs or [(_counterpart(first, side), side) for side in found[len(first) :]]
    notes = dict.fromkeys(note for base, other in pairs for note in _notes(base, other))
    return {"comparisons": [_against(base, other) for base, other in pairs], "notes": list(notes)}


def _counterpart(first: Sequence[Side], side: Side) -> Side:
    alike = [base for base in first if base.head.policy == side.head.policy] or first
    same = [base for base in alike if base.head.engine == side.head.engine] or alike
    if len(same) != 1:
        raise ScenarioError(
            f"compare: {side.name} has no counterpart among {', '.join(base.name for base in same)}; allowed: the "
            "same policies and engines, or one in the base; choose with --set policy=NAME or --set engine=NAME"
        )
    return same[0]


def _shared(base: Side, other: Side) -> list[int]:
    return sorted(base.runs.keys() & other.runs.keys())


def _against(base: Side, other: Side) -> dict[str, Any]:
    seeds = _shared(base, other)
    if not seeds:
        have = f"{other.name} has seeds {sorted(other.runs)}, {base.name} {sorted(base.runs)}"
        raise ScenarioError(f"compare: {have}; allowed: a seed in common; run them with the same --seed and --seeds")
    theirs, ours = ([side.runs[seed].figures for seed in seeds] for side in (base, other))
    compared: dict[str | None, dict[str, Any]] = {}
    for name in theirs[0]:
        if all(name in one for one in (*theirs, *ours)):
            found = differences([one[name] for one in theirs], [one[name] for one in ours])
            compared[name] = {figure: one.json() for figure, one in found.items()}
    of_all = compared.pop(None)
    return {"base": base.name, "other": other.name, "seeds": seeds, "figures": of_all, "classes": compared}


def _notes(base: Side, other: Side) -> Iterator[str]:
    """Yield what limits the comparison of two sides."""
    pairs = len(_shared(base, other))
    if pairs == 1:
        yield "one pair, so no interval and no verdict: use --seeds 5 or more"
    elif pairs < FEW:
        yield f"{pairs} pairs make wide intervals: use --seeds {FEW} or more"
    if left := sorted(base.runs.keys() ^ other.runs.keys()):
        yield f"seeds {', '.join(map(str, left))} are on one side only, and left out"
    ours, theirs = base.head.scenario, other.head.scenario
    if ours.slo != theirs.slo:
        yield f"{other.head.source} has other SLOs than {base.head.source}: goodput and attainment differ in meaning"
    if (ours.workload, ours.until) != (theirs.workload, theirs.until):
        yield f"{other.head.source} has other traffic than {base.head.source}: pairs share a seed, not every request"
