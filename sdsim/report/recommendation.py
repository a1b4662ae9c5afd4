"""A recommendation as text: the policies that stood last, the answer, and the engine's configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from sdsim.recommendation import Recommendation
from sdsim.recommendation.ranking import SPEED, gain
from sdsim.recommendation.reasons import UNITS, difference
from sdsim.recommendation.replicas import tied
from sdsim.report.console import print_runs
from sdsim.report.numerals import number
from sdsim.report.sheet import HEADING
from sdsim.statistics import mean_summary

Answer = Mapping[str, Any]
WAYS = {
    "arguments": "either the table, which the engine follows by itself:",
    "live_arguments": "or the policy itself, inside the engine's scheduler:",
}


def print_recommendation(console: Console, found: Recommendation, answer: Answer, notes: Sequence[str]) -> None:
    """Print *found*, whose JSON is *answer*."""
    scenario = found.scenario
    seeds = f"{scenario.seeds} seeds" if scenario.seeds > 1 else f"seed {scenario.seed}"
    replicas = f"{scenario.replicas} x ({scenario.gpus})"
    title = f"{scenario.name} · {scenario.model} · {replicas} · {scenario.engines[0]} · {seeds}"
    order = found.standing.order
    runs = [{**mean_summary([t.summary for t in one.trials]), "policy": one.label} for one in order]
    dropped = [f"{one.label} {lag.mean:+.1%}" for one, lag in found.standing.dropped if np.isfinite(lag.mean)]
    more = [f"dropped after the first seed: {', '.join(dropped)}"] if dropped else []
    print_runs(console, runs, title, _answer(found, answer), [*more, *notes])
    console.print()
    print_configuration(console, answer["config"])
    if answer["measured"] is not None:
        _print_measured(console, answer["measured"])


def _answer(found: Recommendation, answer: Answer) -> list[str]:
    """Return the answer in sentences."""
    winner, off = found.standing.order[0], found.standing.off
    lengths = ", ".join(map(str, answer["lengths"]))
    lines = [f"Use {answer['policy']} (draft lengths {lengths})."]
    if winner is not off:
        figure = answer["objective"]
        over, faster = (difference(gain(winner, off, f), UNITS[f]) for f in (figure, SPEED))
        lines[0] = f"{lines[0][:-1]}: {over} and {faster} over off."
    if answer["runner_up"] is not None:
        lines.append(f"Next is {answer['runner_up']['policy']}: {answer['runner_up']['why']}")
    lines.append(_flip(answer))
    if found.scenario.slo is not None:
        lines.append(_gpus(answer, tied(found.scenario)))
    return lines


def _flip(answer: Answer) -> str:
    now, flip = answer["acceptance"], answer["flips_below_acceptance"]
    if flip is None:
        return f"No acceptance would make speculation pay (the mean is {now:.2f})."
    if not flip:
        return f"Speculation pays at any acceptance (the mean is {now:.2f})."
    return f"Below a mean acceptance of {flip:.2f} off is best (the mean is {now:.2f})."


def _gpus(answer: Answer, tied: bool) -> str:
    share = f"{answer['slo_attainment']:.4g}"
    if tied:
        return "The fewest GPUs are not searched where replicas fail or scale."
    if answer["gpus"] is None:
        return f"No number of replicas tried lets a share of {share} of the requests meet the SLOs."
    gpus, replicas = _counted(answer["gpus"], "GPU"), _counted(answer["replicas"], "replica")
    return f"The fewest GPUs on which a share of {share} of the requests meets the SLOs: {gpus} in {replicas}."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def print_configuration(console: Console, config: Answer) -> None:
    """Print what the engine is to be given."""
    console.print(Text(f"{config['engine']}", style=HEADING))
    keys = [key for key in config if key not in ("engine", "notes") and config[key]]
    shown = [key for key in keys if key in ("arguments", "live_arguments")] or keys
    if config["engine"] == "sglang":
        shown = [key for key in (*shown, "speculative_adaptive_config") if config[key]] if config["arguments"] else []
    for key in shown:
        if len(shown) > 1 and key in WAYS:
            console.print(Text(WAYS[key], style="dim"))
        text = config[key] if isinstance(config[key], str) else f"{key}: {json.dumps(config[key])}"
        console.print(Text(text), soft_wrap=True)
    for note in config["notes"]:
        console.print(Text(note, style="dim"), soft_wrap=True)


def _print_measured(console: Console, measured: Answer) -> None:
    console.print()
    batch = number(measured["mean_batch"])
    console.print(Text(f"measured on the running {measured['engine']}, mean batch {batch}", style=HEADING))
    for key, value in measured["replaced"].items():
        console.print(Text(f"{key}: {json.dumps(value)}"), soft_wrap=True)
    for key, reason in measured["assumed"].items():
        console.print(Text(f"{key}: as the scenario has it; {reason}", style="dim"), soft_wrap=True)
    for warning in measured["warnings"]:
        console.print(Text(warning, style="dim"), soft_wrap=True)
