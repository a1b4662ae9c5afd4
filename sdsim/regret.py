"""What a policy loses against knowing more, split by what it would have to know.

- The price of randomness: what an oracle gains that knows beforehand which drafts will be accepted
  (`oracle_realised`) over one that knows their chances (`oracle_expected`), both run on the scenario.
- The price of myopia: what the dynamic optimum gains over the best single steps. It is that of a small model
  (`semi_markov`) with the scenario's prices, traffic, mean lengths and mean acceptance, one draft length for all rows.
- The price of estimation: what a policy loses against `oracle_expected`. Below 0 where it may do what that oracle may
  not, such as cut prompt chunks.

The oracles of single steps take the best set of drafts of every size. Since a step is priced by counts alone, experts
included (they are those expected of so many tokens), that is exact. They are no bounds on goodput within an SLO.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdsim.acceptance import make_acceptance
from sdsim.load import mean_rate
from sdsim.policies.priced import catch_up_seconds
from sdsim.pools import make_system
from sdsim.scenario import Scenario
from sdsim.semi_markov import Phase, Replica, average_cost, moves, myopic, optimum
from sdsim.workload import class_names, requests

LENGTHS = (0, 1, 2, 3, 4, 5, 6)
BATCH = 16
"""Rows beside which a prompt is priced."""


def price_of_myopia(scenario: Scenario, lengths: Sequence[int] = LENGTHS) -> float | None:
    """Return by how much fewer requests the dynamic optimum holds than the best single steps do, as a gain.

    None for traffic that waits for answers, whose batch does not depend on how fast it is served, and without drafts.
    """
    if scenario.workload.kind in ("closed", "sessions") or scenario.draft is None or scenario.acceptance is None:
        return None
    replica = small_model(scenario, lengths)
    problem, greedy = moves(replica), myopic(replica)
    return average_cost(problem, greedy)[0] / optimum(problem, greedy)[0] - 1.0


def small_model(scenario: Scenario, lengths: Sequence[int]) -> Replica:
    """Return the small model of one of the scenario's replicas, which shares the traffic evenly with the others."""
    prices = make_system(scenario).prices
    law = make_acceptance(scenario.acceptance, scenario.seed, class_names(scenario.workload))
    lengths = [k for k in lengths if k <= law.longest]
    first = next(iter(requests(scenario.workload, scenario.seed)))
    prompt, output = float(first.prompt_tokens.mean()), float(first.output_tokens.mean())
    context = prompt + output / 2.0
    batches = range(1, scenario.replica.max_num_seqs + 1)
    carried = prices.step_seconds(BATCH, 0, context, round(prompt)) - prices.step_seconds(BATCH, 0, context)
    return Replica(
        seconds=np.array([[prices.step_seconds(n, k, context) for k in lengths] for n in batches]),
        off=np.array([prices.off_seconds(n, context) for n in batches]),
        reload=np.array([catch_up_seconds(prices, n, context) for n in batches]),
        tokens=np.array([law.tokens_per_step(k) for k in lengths]),
        phases=_phases(scenario),
        output=output,
        prompt_s=carried,
    )


def _phases(scenario: Scenario) -> tuple[Phase, ...]:
    """Return the traffic of one replica: bursts at random times, or the mean rate."""
    workload, share = scenario.workload, 1.0 / scenario.replicas
    if workload.kind == "mmpp":
        low, high = workload.mean_low, workload.mean_high
    elif workload.kind == "bursty":
        low, high = workload.period * (1.0 - workload.duty), workload.period * workload.duty
    else:
        return (Phase(mean_rate(scenario) * share),)
    return Phase(workload.rate * share, 1.0 / low), Phase(workload.peak * share, 1.0 / high)
