"""What the engine is to run of the best policy."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdsim.engine_config import policy_table
from sdsim.policy import IntArray
from sdsim.recommendation.candidates import OFF, learns, usual_batches
from sdsim.recommendation.case import Case
from sdsim.recommendation.contest import Standing
from sdsim.recommendation.engines import Deployment, engine_configuration
from sdsim.recommendation.ranking import Contender


def configuration(case: Case, standing: Standing) -> dict[str, Any]:
    """Return the engine's configuration of the best policy.

    That is its own table at the batch sizes that decided, those usual in its runs, and the tuned one at others. A
    policy that learns has no table: the tuned one stands for it, and where the engine takes policies it runs live.
    """
    winner, tuned = standing.order[0], case.table
    policy, table, live, usual = case.policy(winner), tuned, None, usual_batches(winner)
    if winner.spec == OFF:
        table = np.zeros_like(tuned)
    elif learns(policy):
        live = (winner.spec, tuple(case.lengths_of(winner)))
    elif not winner.tuned:
        batches, (low, high) = np.arange(1, len(tuned) + 1), usual
        table = np.where((low <= batches) & (batches <= high), _table(case, winner), tuned)
    prices, question = case.system.prices, case.question
    chosen = Deployment(table, case.draft, question.drafter, prices, case.context, usual, live)
    written = engine_configuration(question.engine, chosen)
    return {**written, "notes": [*written["notes"], *_short_of(case, table)]}


def _short_of(case: Case, table: IntArray) -> list[str]:
    """Return a note if most batch sizes take the longest length that was tried, though drafts could be longer."""
    longest = case.lengths[-1]
    if np.mean(table == longest) <= 0.5 or case.drafts.law.longest <= longest:
        return []
    longer = ",".join(map(str, (*case.lengths, *(longest + k for k in (2, 4)))))
    return [f"{longest} is the longest length tried; longer ones may be better: --lengths {longer}"]


def _table(case: Case, one: Contender) -> IntArray:
    return policy_table(case.policy(one), case.scenario.replica.max_num_seqs, case.context)
