"""Recommend a policy, its draft lengths and an engine's configuration: `python -m sdsim.recommend SCENARIO`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdsim.checks import doubtful
from sdsim.command import (
    OK,
    Parser,
    add_allow_code,
    add_changes,
    add_jobs,
    check_jobs,
    overrides,
    parsed,
    placing_errors,
    run_command,
    whole_numbers,
)
from sdsim.errors import ScenarioError, unknown
from sdsim.policies.lengths import LONGEST
from sdsim.recommendation import Bench, Question, Recommendation, recommend
from sdsim.recommendation.engines import ENGINES
from sdsim.recommendation.files import write_recommendation
from sdsim.recommendation.measured import Measured, apply_measured
from sdsim.result import to_json
from sdsim.scenario import Scenario, Slo, load_scenario
from sdsim.units import POSITIVE, parse_duration
from sdsim.whole import refuse_existing
from sdsim.workers import local_workers

EXAMPLE = """examples:
  python -m sdsim.recommend scenarios/bursty.yaml --slo ttft=2s,tpot=50ms --for vllm
  python -m sdsim.recommend scenarios/steady.yaml --for sglang --metrics http://localhost:30000 --every 60
  python -m sdsim.recommend scenarios/steady.yaml --policies 'goodput,{kind: fixed, length: 2}' --json"""
ABOUT_RUNS = 40
"""What the progress bar expects; searches end earlier or later."""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.recommend",
        description="Find the best policy and draft lengths for a scenario, how sure that is, the acceptance at which "
        "it would be none, the fewest GPUs that hold the SLOs, and the engine's configuration.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scenario", type=Path, metavar="SCENARIO", help="a scenario file, with a draft")
    p.add_argument("--slo", metavar="NAME=TIME,...", help="targets instead of the scenario's: ttft=2s,tpot=50ms,e2e=9s")
    p.add_argument(
        "--for", dest="engine", default="vllm", metavar="ENGINE", help=", ".join(ENGINES) + " (default vllm)"
    )
    p.add_argument("--policies", metavar="A,B,...", help="candidates (default: all; batch_table is the tuned one)")
    p.add_argument("--lengths", default="0,1,2,3,4", metavar="K,...", help="draft lengths to choose among")
    share = "of the requests, for the number of GPUs (default 0.9)"
    p.add_argument("--slo-attainment", type=float, default=0.9, metavar="SHARE", help=share)
    p.add_argument("--drafter", metavar="NAME", help="the drafter's weights as the engine finds them")
    metrics = "a running engine's address or saved metrics page; twice, older first: the time between them"
    p.add_argument("--metrics", action="append", default=[], metavar="URL|FILE", help=metrics)
    p.add_argument("--every", type=float, metavar="S", help="scrape an address again after S seconds")
    p.add_argument("--seconds", type=float, metavar="S", help="time between two saved pages, for rates")
    p.add_argument("--model", metavar="NAME", help="the model whose metrics to read, where the server has several")
    add_changes(p)
    add_allow_code(p)
    add_jobs(p)
    p.add_argument("--out", type=Path, metavar="DIR", help="write the answer and the engine's files here")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parsed(parser(), words)
    check_jobs(options)
    question = _question(options)
    scenario = load_scenario(options.scenario, overrides(options, ()), options.allow_code)
    if options.slo is not None:
        scenario = scenario.model_copy(update={"slo": _slo(options.slo)})
    if options.out is not None:
        refuse_existing(options.out)
    scenario, measured = _measured(scenario, options)
    with placing_errors(options.scenario):
        found = _recommended(scenario, question, options)
    answer = {**found.json, "measured": None if measured is None else measured.json()}
    if options.out is not None:
        write_recommendation(options.out, found.scenario, answer)
    if options.json:
        print(to_json(answer))
    else:
        _show(found, answer)
    return OK


def _question(options: argparse.Namespace) -> Question:
    lengths = tuple(sorted({0, *whole_numbers("--lengths", options.lengths, 0, LONGEST)}))
    if not any(lengths):
        raise ScenarioError(f"--lengths: {options.lengths!r}; allowed: one above 0 at least, such as 0,1,2,3,4")
    if not 0 < options.slo_attainment <= 1:
        raise ScenarioError(f"--slo-attainment: found {options.slo_attainment}; allowed: a share over 0, up to 1")
    if options.engine not in ENGINES:
        raise ScenarioError(f"--for: {unknown('engine', options.engine, ENGINES)}")
    _check_metrics(options)
    return Question(options.engine, lengths, options.policies, options.slo_attainment, options.drafter)


def _check_metrics(options: argparse.Namespace) -> None:
    for name in ("every", "seconds", "model"):
        if getattr(options, name) is not None and not options.metrics:
            raise ScenarioError(f"--{name}: given without --metrics; allowed: with it; name the engine's address")
    for name in ("every", "seconds"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e9:
            raise ScenarioError(f"--{name}: {value:g}; allowed: seconds above 0")
    if len(options.metrics) > 2:
        raise ScenarioError(f"--metrics: {len(options.metrics)} sources; allowed: one, or two to be differenced")


def _slo(text: str) -> Slo:
    """Return the targets in *text*, such as ttft=2s,tpot=50ms."""
    targets: dict[str, float] = {}
    for word in text.split(","):
        name, equals, value = word.partition("=")
        name = name.strip()
        if not equals or name not in Slo.model_fields:
            found = f"found {word!r}" if not equals else unknown("target", name, Slo.model_fields)
            raise ScenarioError(f"--slo: {found}; allowed: ttft, tpot, e2e; write it such as ttft=2s,tpot=50ms")
        try:
            targets[name] = parse_duration(value, POSITIVE)
        except ValueError as error:
            raise ScenarioError(f"--slo: {name}: {error}") from None
    return Slo(**targets)


def _measured(scenario: Scenario, options: argparse.Namespace) -> tuple[Scenario, Measured | None]:
    """Return *scenario* as the engine's metrics have it, and what they replaced; as it is without --metrics."""
    if not options.metrics:
        return scenario, None
    from sdsim.engine_metrics import estimate
    from sdsim.engine_metrics.scrape import read_interval

    found = estimate(read_interval(options.metrics, options.every or 0.0, options.seconds, options.model))
    return apply_measured(scenario, found)


def _recommended(scenario: Scenario, question: Question, options: argparse.Namespace) -> Recommendation:
    """Search, behind a progress bar on a terminal."""
    from rich.console import Console

    from sdsim.report.progress import finished_runs

    with (
        local_workers(options.jobs or os.cpu_count() or 1) as workers,
        finished_runs(Console(stderr=True), ABOUT_RUNS, scenario.name, quiet=options.json) as finished,
    ):
        return recommend(scenario, question, Bench(workers, finished))


def _show(found: Recommendation, answer: dict[str, Any]) -> None:
    from rich.console import Console

    from sdsim.report.recommendation import print_recommendation

    notes = doubtful(found.scenario.model_copy(update={"policies": tuple(one.spec for one in found.standing.order)}))
    print_recommendation(Console(), found, answer, notes)


if __name__ == "__main__":
    run_command(main)
