"""Candidates run against each other: all on the first seed, those near the best on every seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdsim.recommendation.candidates import (
    OFF,
    check_lengths,
    contenders,
    default_policies,
    named_policies,
)
from sdsim.recommendation.case import Case
from sdsim.recommendation.ranking import Contender, Gain, gain, ranked

FINALISTS = 2
"""Policies beside off and the tuned table that run on every seed."""
FAR = 0.05
"""Share of the objective by which a policy may trail on the first seed and still run on the others."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The outcome of a contest."""

    order: tuple[Contender, ...]
    """Run on every seed, best first."""
    off: Contender
    dropped: tuple[tuple[Contender, Gain], ...]
    """After the first seed, with what they gained there over the best."""


def contest(case: Case) -> Standing:
    """Return how the candidates of *case* stand."""
    chosen, dropped = _near(case, _screened(case))
    final = case.run(chosen, case.seeds[1:])
    return Standing(tuple(ranked(final, case.figure)), next(one for one in final if one.spec == OFF), dropped)


def _screened(case: Case) -> list[Contender]:
    """Return all candidates after the first seed, the simplest first."""
    named, table = case.question.policies, case.table
    if named is None:
        policies = default_policies(case.scenario, table, case.lengths)
    else:
        policies = named_policies(named, table)
    longest = case.drafts.law.longest
    policies = [policy.within(longest) for policy in policies]
    check_lengths(policies, case.system, longest)
    _, *rest = contenders(policies, table, case.system)
    return [case.off, *case.run(rest, case.seeds[:1])]


def _near(case: Case, screened: Sequence[Contender]) -> tuple[list[Contender], tuple[tuple[Contender, Gain], ...]]:
    """Return the candidates to go on with, the simplest first, and those dropped."""
    order = ranked(screened, case.figure)
    behind = [gain(one, order[0], case.figure) for one in order]
    always = {one.label for one in order if one.spec == OFF or one.tuned}
    near = [one.label for one, lag in zip(order, behind, strict=True) if one.label not in always and lag.mean >= -FAR]
    kept = always | set(near[:FINALISTS])
    dropped = [(one, lag) for one, lag in zip(order, behind, strict=True) if one.label not in kept]
    return [one for one in screened if one.label in kept], tuple(dropped)
