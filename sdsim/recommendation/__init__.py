"""The best policy for a scenario, how sure that is, what it takes, and when it would be another.

Every policy runs on the first seed; those near the best run on all. The table of draft lengths comes from prices. All
runs of a seed share requests and coins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sdsim.recommendation.case import Case, Question, make_case
from sdsim.recommendation.contest import Standing, contest
from sdsim.recommendation.deployment import configuration
from sdsim.recommendation.flip import flips_below
from sdsim.recommendation.ranking import SPEED, Contender, gain
from sdsim.recommendation.reasons import why_lost
from sdsim.recommendation.replicas import gpus, needed_replicas
from sdsim.recommendation.trials import Bench
from sdsim.scenario import Scenario

__all__ = ["Bench", "Question", "Recommendation", "recommend"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer: its `json` object, and the policies behind it."""

    json: dict[str, Any]
    standing: Standing
    scenario: Scenario
    """With the seeds that were run."""


def recommend(scenario: Scenario, question: Question, bench: Bench) -> Recommendation:
    """Return the best policy for *scenario*. Raises ScenarioError for one that leaves nothing to choose."""
    case = make_case(scenario, question, bench)
    standing = contest(case)
    winner, off = standing.order[0], standing.off
    replicas = needed_replicas(case, winner)
    answer = {
        "policy": winner.label,
        "lengths": case.lengths_of(winner),
        "objective": case.figure,
        **_gains("gain", winner, off, case.figure),
        **_gains("speed_gain", winner, off, SPEED),
        "runner_up": _runner_up(case, standing),
        "acceptance": case.drafts.mean,
        "flips_below_acceptance": flips_below(case, winner, off),
        "gpus": None if replicas is None else gpus(scenario, replicas),
        "replicas": replicas,
        "slo_attainment": question.attainment if scenario.slo else None,
        "config": configuration(case, standing),
    }
    return Recommendation(answer, standing, case.scenario)


def _gains(name: str, ours: Contender, theirs: Contender, figure: str) -> dict[str, Any]:
    found = gain(ours, theirs, figure)
    return {name: found.mean if math.isfinite(found.mean) else None, f"{name}_ci95": found.ci95}


def _runner_up(case: Case, standing: Standing) -> dict[str, Any] | None:
    if len(standing.order) < 2:
        return None
    winner, second = standing.order[:2]
    why = why_lost(second, winner, case.figure)
    return {"policy": second.label, "lengths": case.lengths_of(second), "why": why}
