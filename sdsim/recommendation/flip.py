"""The acceptance at which speculation begins to pay: everything else, coins included, stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sdsim.recommendation.candidates import OFF, learns, table_policy
from sdsim.recommendation.case import Case
from sdsim.recommendation.drafts import Drafts, moved
from sdsim.recommendation.ranking import Contender, best
from sdsim.verdict import flip_acceptance

STEP, TOLERANCE = 0.06, 0.02
"""Of the mean acceptance: the first step away from the guess, and the width of the last bracket."""


def crossing(pays: Callable[[float], bool], guess: float) -> float | None:
    """Return the acceptance from which speculation *pays*: 0 if always, None if at none up to 1.

    Speculation is taken to pay above any acceptance at which it does. Steps away from *guess* double until the answer
    changes; then the bracket is halved.
    """
    near, step, first = guess, STEP, pays(guess)
    while pays(far := min(max(near - step if first else near + step, 0.0), 1.0)) == first:
        if far in (0.0, 1.0):
            return 0.0 if first else None
        near, step = far, 2 * step
    low, high = (far, near) if first else (near, far)
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return (low + high) / 2


def flips_below(case: Case, winner: Contender, off: Contender) -> float | None:
    """Return the mean acceptance below which off is best; None if it is best at any.

    At each acceptance off meets the *winner* itself where that learns, and a table priced for it. At the scenario's own
    the contest has decided.
    """
    seeds = case.few_seeds
    base = replace(off, trials=off.trials[: len(seeds)])
    won, mean = winner.spec != OFF, case.drafts.mean
    adapts = won and learns(case.policy(winner))

    def pays(acceptance: float) -> bool:
        if acceptance >= mean if won else acceptance <= mean:
            return won
        assert case.scenario.acceptance is not None
        law = moved(case.scenario.acceptance, mean, acceptance)
        at = case.scenario.model_copy(update={"acceptance": law})
        table = case.times.table(Drafts(at, law).tokens(case.lengths))
        # a drafter that never drafts only costs
        specs = [winner.spec] * adapts + [table_policy(table)] * bool(table.any())
        rivals = (Contender("challenger", spec, tuple(case.bench.run(at, [spec], seeds)[0])) for spec in specs)
        return any(best([base, rival], case.figure) is rival for rival in rivals)

    guess = _guess(case)
    return crossing(pays, min(guess, mean) if won else max(guess, mean))


def _guess(case: Case) -> float:
    """Return the acceptance at which the first length breaks even at off's mean batch, if all rows are alike."""
    rows = max(round(case.off.trials[0].summary["mean_batch"] or 1), 1)
    rates = [flip_acceptance(case.system.prices, rows, k, case.context) for k in case.lengths if k]
    return min((rate for rate in rates if rate is not None), default=1.0)
