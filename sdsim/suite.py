"""Rank policies over a folder of scenarios, against an oracle: `python -m sdsim.suite`.

Every scenario is run under each policy and seed, on the same requests and coins. One policy, the subject, is held
against decoding alone, the best constant length, the best published rule and, with --tuned, the best table that a
search finds for that scenario; `regret` splits what is lost to those who know more. Finished runs are kept in
OUT.journal; with --resume a suite that was ended goes on from there.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sdsim.command import BAD_INPUT, OK, Parser, add_jobs, check_jobs, overrides, parsed, run_command
from sdsim.errors import ScenarioError
from sdsim.experiment import Cell, cells, told_apart
from sdsim.fingerprint import run_digest
from sdsim.grid import GridCell, Point
from sdsim.grid.journal import Outcome, open_journal, read_journal
from sdsim.grid.table import outcome
from sdsim.regret import price_of_myopia
from sdsim.result import to_json
from sdsim.scenario import PolicySpec, Scenario, load_scenario
from sdsim.standings import duels, headline, standings, totals
from sdsim.tuning import TableSearch
from sdsim.whole import refuse_existing, write_file
from sdsim.workers import Workers, local_workers

Item = TypeVar("Item")
FOLDER = Path("scenarios/suite")
ORACLE = "oracle_expected"
CLAIRVOYANT = "oracle_realised"
OURS = ("auto", "kv_priced", "model_predictive", "prefill_riding")
SUBJECT = "auto"
TABLE = "batch_context_table"
LENGTHS = "lengths: [0, 1, 2, 3, 4, 5, 6]"
CORE = (
    CLAIRVOYANT, "off", *(f"{{kind: fixed, length: {k}}}" for k in (1, 2, 3, 4, 6)),
    "{kind: batch_table, table: [[1, 64, 4], [65, 128, 2], [129, 512, 0]]}",
    f"{{kind: goodput, {LENGTHS}}}", f"{{kind: position_goodput, {LENGTHS}}}", f"{{kind: moesd, {LENGTHS}}}",
    "sglang_adaptive", "throughput_aware", "cascade", f"{{kind: nightjar, {LENGTHS}}}",
    f"{{kind: dspark, draft: chosen, {LENGTHS}}}", f"{{kind: prefill_riding, rides: false, {LENGTHS}}}", "auto",
)  # fmt: skip
"""What knows all, constant lengths, what engines ship, the published rules that choose lengths, and ours."""
EXAMPLE = """examples:
  python -m sdsim.suite --seeds 5 --tuned --jobs 2 --out suite.json
  python -m sdsim.suite scenarios/suite/drain.yaml --policy off --policy auto
  python -m sdsim.suite --seeds 20 --resume --out suite.json"""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.suite",
        description="Run policies on every scenario of a folder, and rank them against an oracle.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scenarios", nargs="*", type=Path, help=f"scenario files or folders (default: {FOLDER})")
    p.add_argument("--policy", action="append", default=[], metavar="NAME", help="instead of the core; repeatable")
    p.add_argument("--oracle", default=ORACLE, metavar="NAME", help=f"what gains are against (default: {ORACLE})")
    p.add_argument("--subject", default=SUBJECT, metavar="NAME", help=f"held against each rival (default: {SUBJECT})")
    p.add_argument("--tuned", action="store_true", help="search each scenario's best batch and context table, too")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of every scenario")
    p.add_argument("--seed", metavar="N", help="the first seed")
    p.add_argument("--seeds", default="5", metavar="N", help="seeds of each scenario (default: 5)")
    add_jobs(p)
    p.add_argument("--resume", action="store_true", help="go on from the runs that an ended suite has finished")
    p.add_argument("--out", type=Path, default=Path("runs/suite.json"), metavar="FILE", help="where the result goes")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--quiet", action="store_true", help="no progress bar, and nothing on stdout")
    return p


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parsed(parser(), words)
    check_jobs(options)
    refuse_existing(options.out)
    journal = options.out.with_name(f"{options.out.name}.journal")
    if journal.exists() and not options.resume:
        raise ScenarioError(f"{journal}: an unfinished suite; add --resume to go on, or remove it")
    scenarios = _scenarios(options)
    try:
        with local_workers(max(options.jobs or os.cpu_count() or 1, 1)) as workers:
            suite = Suite(workers, journal, options.quiet)
            if options.tuned:
                tables = suite.outcomes(tune, {_table_key(scenario): scenario for scenario in scenarios}, "tables")
                scenarios = [_with_table(scenario, tables[_table_key(scenario)]) for scenario in scenarios]
            runs = {_key(cell): cell for scenario in scenarios for cell in cells(scenario)}
            outcomes = suite.outcomes(outcome, runs, "runs")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished runs are kept in {journal}; go on with --resume") from None
    found = ranked(scenarios, outcomes, options)
    write_file(options.out, lambda path: path.write_text(to_json(found) + "\n", encoding="utf-8"))
    journal.unlink()
    _show(found, options)
    failed = all(row["gain"] is None for one in found["scenarios"] for row in one["standings"])
    return BAD_INPUT if failed else OK


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    """Return the scenarios, the oracle the first policy of each."""
    given = options.scenarios or [FOLDER]
    files = [file for path in given for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    if not files:
        raise ScenarioError(f"{given[0]}: no scenario in it; allowed: files, or folders of *.yaml; name another")
    policies = list(dict.fromkeys([options.oracle, *(options.policy or CORE)]))
    scenarios = [load_scenario(file, overrides(options, policies)) for file in files]
    kinds = sorted({spec.kind for scenario in scenarios for spec in scenario.policies})
    if options.subject not in (SUBJECT, *kinds):
        found = f"--subject {options.subject}: no policy that is run is of that kind"
        raise ScenarioError(f"{found}; allowed: {', '.join(kinds)}; name one, or add it with --policy")
    return scenarios


def _key(cell: Cell) -> str:
    return GridCell(Point({}, cell.scenario), cell).key


def _table_key(scenario: Scenario) -> str:
    return "table " + run_digest(scenario.model_copy(update={"policies": ()}).resolved())


def tune(scenario: Scenario) -> Outcome:
    """Return the best table for *scenario*, and how many runs it took to find."""
    search = TableSearch(scenario)
    return {"table": search.best().parameters["table"], "runs": search.runs}


def _with_table(scenario: Scenario, found: Outcome) -> Scenario:
    tuned = PolicySpec(kind=TABLE, parameters={"table": found["table"]})
    return scenario.model_copy(update={"policies": (*scenario.policies, tuned)})


class Suite:
    """Work that *workers* share, each finished item kept in the journal at *path*."""

    def __init__(self, workers: Workers, path: Path, quiet: bool) -> None:
        self._workers, self._path, self._quiet = workers, path, quiet
        self._known = read_journal(path)

    def outcomes(self, work: Callable[[Item], Outcome], todo: Mapping[str, Item], what: str) -> dict[str, Outcome]:
        """Return what *work* makes of each item of *todo*, by key: from the journal, or now."""
        from rich.console import Console

        from sdsim.report.progress import finished_runs

        missing = [key for key in todo if key not in self._known]
        with (
            open_journal(self._path) as keep,
            finished_runs(Console(stderr=True), len(missing), what, self._quiet) as finished,
        ):
            for number, (place, found) in enumerate(self._workers.map(work, [todo[key] for key in missing]), 1):
                keep(missing[place], found)
                self._known[missing[place]] = found
                finished(number)
        return {key: self._known[key] for key in todo}


def ranked(scenarios: Sequence[Scenario], outcomes: dict[str, Outcome], options: argparse.Namespace) -> dict[str, Any]:
    """Return the standings of every scenario and over all; the base is each scenario's first policy."""
    found = [_ranked(scenario, outcomes, options) for scenario in scenarios]
    return {"seeds": scenarios[0].seeds, "scenarios": found, "totals": totals(found)}


def _ranked(scenario: Scenario, outcomes: dict[str, Outcome], options: argparse.Namespace) -> dict[str, Any]:
    runs, figure = cells(scenario), headline(scenario)
    results = [outcomes[_key(cell)] for cell in runs]
    labels = told_apart(
        (str(result.get("policy", cell.policy.kind)), cell.policy) for cell, result in zip(runs, results, strict=True)
    )
    by_policy: dict[str, list[Outcome]] = {}
    for label, result in zip(labels, results, strict=True):
        by_policy.setdefault(label, []).append(result)
    specs = {label: cell.policy for label, cell in zip(labels, runs, strict=True)}
    subject = next((label for label, spec in specs.items() if spec.kind == options.subject), None)
    base = labels[0]
    known = [label for label, spec in specs.items() if spec.kind == CLAIRVOYANT]
    return {
        "name": scenario.name,
        "figure": figure,
        "base": base,
        "standings": standings(figure, by_policy, base),
        "subject": subject,
        "duels": duels(figure, by_policy, subject, _rivals(specs, options.tuned)) if subject else {},
        "regret": {
            "randomness": duels(figure, by_policy, known[0], {base: [base]})[base] if known else None,
            "myopia": price_of_myopia(scenario),
            "estimation": duels(figure, by_policy, base, {subject: [subject]})[subject] if subject else None,
        },
    }


def _rivals(specs: Mapping[str, PolicySpec], tuned: bool) -> dict[str, list[str]]:
    """Return the labels of each group that the subject is held against; a tuned table is the last of *specs*."""
    table = list(specs)[-1:] if tuned else []
    groups: dict[str, list[str]] = {"off": [], "constant": [], "table": table, "peer": []}
    for label, spec in specs.items():
        if label in table or spec.kind in OURS or spec.kind.startswith("oracle"):
            continue
        groups[{"off": "off", "fixed": "constant"}.get(spec.kind, "peer")].append(label)
    return groups


def _show(found: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print(to_json(found))
    elif not options.quiet:
        from rich.console import Console

        from sdsim.report.standings_table import print_standings

        print_standings(Console(), found)


if __name__ == "__main__":
    run_command(main)
