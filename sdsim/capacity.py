"""Find how much traffic a system carries within its SLOs: `python -m sdsim.capacity SCENARIO --slo-attainment 0.9`."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdsim.command import (
    OK,
    Parser,
    add_allow_code,
    add_changes,
    add_jobs,
    add_policies,
    check_jobs,
    overrides,
    parsed,
    placing_errors,
    run_command,
)
from sdsim.errors import ScenarioError
from sdsim.result import to_json
from sdsim.scenario import Scenario, load_scenario
from sdsim.search import WIDEST, Capacity, capacity, operating_points
from sdsim.statistics import relative_gain
from sdsim.units import parse_rate
from sdsim.workers import Workers, local_workers

EXAMPLE = """examples:
  python -m sdsim.capacity scenarios/steady.yaml --slo-attainment 0.9 --seeds 5
  python -m sdsim.capacity scenarios/steady.yaml --front 4/s,8/s,16/s,32/s --policy off --policy goodput"""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.capacity",
        description="Find the highest mean arrival rate at which a share of the requests meets every SLO, policy by "
        "policy; or the front of tokens/s per GPU against tokens/s per user.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scenario", type=Path, metavar="SCENARIO", help="a scenario file, with an slo")
    p.add_argument("--slo-attainment", type=float, default=0.9, metavar="SHARE", help="of the requests (default 0.9)")
    p.add_argument(
        "--tolerance", type=float, default=0.02, metavar="SHARE", help="width of the rate's bracket (default 0.02)"
    )
    p.add_argument("--front", metavar="RATE[,RATE...]", help="instead, run these rates and mark the Pareto front")
    add_policies(p)
    add_changes(p)
    add_allow_code(p)
    add_jobs(p)
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parsed(parser(), words)
    check_jobs(options)
    _check_shares(options)
    scenario = load_scenario(options.scenario, overrides(options, options.policy), options.allow_code)
    runs = scenario.seeds * len(scenario.policies) * len(scenario.engines)
    with placing_errors(options.scenario), local_workers(min(options.jobs or os.cpu_count() or 1, runs)) as workers:
        answer = _front(scenario, options, workers) if options.front else _capacity(scenario, options, workers)
    if options.json:
        print(to_json(answer))
    else:
        _show(scenario, answer)
    return OK


def _check_shares(options: argparse.Namespace) -> None:
    if not 0 < options.slo_attainment <= 1:
        raise ScenarioError(f"--slo-attainment: found {options.slo_attainment}; allowed: a share over 0, up to 1")
    if not 0.001 <= options.tolerance <= 1:
        raise ScenarioError(f"--tolerance: found {options.tolerance}; allowed: a share from 0.001 to 1")


def _capacity(scenario: Scenario, options: argparse.Namespace, workers: Workers) -> dict[str, Any]:
    if scenario.slo is None:
        raise ScenarioError(f"{options.scenario}: slo: missing; needed for a capacity; add it: --set slo.tpot=50ms")
    found = capacity(scenario, options.slo_attainment, options.tolerance, workers)
    best = max(found, key=lambda one: one.rate)
    return {
        "slo_attainment": options.slo_attainment,
        "tolerance": options.tolerance,
        "runs": [_row(one, best) for one in found],
        "notes": list(dict.fromkeys(note for one in found for note in _notes(one, options.slo_attainment))),
    }


def _row(one: Capacity, best: Capacity) -> dict[str, Any]:
    """Return the JSON of one policy's capacity, and how it falls short of the *best*, seed by seed."""
    known = 0 < one.rate < math.inf and 0 < best.rate < math.inf
    gain, found = relative_gain(one.rates, best.rates) if known and one is not best else (None, None)
    return {
        "policy": one.policy,
        "engine": one.engine,
        "capacity_rps": one.rate if one.rate < math.inf else None,
        "ci95": one.ci95,
        "seeds": dict(zip(map(str, one.seeds), (r if r < math.inf else None for r in one.rates), strict=True)),
        "to_best": gain,
        "to_best_ci95": found,
        "simulations": one.runs,
    }


def _notes(one: Capacity, attainment: float) -> list[str]:
    if len(one.seeds) == 1:
        return ["one seed, so no interval: use --seeds 5 or more"]
    if not one.rate:
        return [
            f"{one.policy}: attains {attainment:.0%} at no rate down to 1/{WIDEST:.0f} of the scenario's under some "
            "seed; loosen the slo, or end runs with workload.limit: with until, what still runs then misses"
        ]
    if math.isinf(one.rate):
        return [
            f"{one.policy}: attains {attainment:.0%} at {WIDEST:.0f} times the scenario's rate; lengthen the run with "
            "workload.limit, or tighten the slo"
        ]
    return []


def _front(scenario: Scenario, options: argparse.Namespace, workers: Workers) -> dict[str, Any]:
    try:
        rates = [parse_rate(word) for word in options.front.split(",")]
    except ValueError as error:
        raise ScenarioError(f"--front: {error}") from None
    return {"points": operating_points(scenario, rates, workers)}


def _show(scenario: Scenario, answer: dict[str, Any]) -> None:
    from rich.console import Console

    from sdsim.report.capacity_table import print_capacity, print_front

    seeds = f"{scenario.seeds} seeds" if scenario.seeds > 1 else f"seed {scenario.seed}"
    title = f"{scenario.name} · {scenario.model} · {scenario.replicas} x ({scenario.gpus}) · {seeds}"
    (print_front if "points" in answer else print_capacity)(Console(), answer, title)


if __name__ == "__main__":
    run_command(main)
