"""The price of myopia of a scenario, and prices that policies misjudge."""

from __future__ import annotations

import pytest

from sdsim.errors import ScenarioError
from sdsim.pools import make_system
from sdsim.regret import price_of_myopia, small_model
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import make_policy, simulate

BASE = {
    "model": "qwen3-30b-a3b",
    "draft": {"kind": "model", "model": "qwen2-0.5b"},
    "gpus": "1 x h200",
    "acceptance": {"kind": "iid", "rate": 0.5},
    "replica": {"max_num_seqs": 12},
}
LENGTHS = {"prompt": 200, "output": 100}
OPEN = {"kind": "poisson", "rate": 20, "limit": 40, "lengths": LENGTHS}
MMPP = {"kind": "mmpp", "rate": 2, "peak": 90, "mean_low": 2.0, "mean_high": 1.0, "limit": 40, "lengths": LENGTHS}
CLOSED = {"kind": "closed", "concurrency": 8, "limit": 24, "lengths": LENGTHS}


def scenario(workload, **more):
    return scenario_from_mapping(BASE | {"workload": workload} | more)


@pytest.mark.parametrize("workload", [OPEN, MMPP])
def test_looking_ahead_is_worth_next_to_nothing_and_never_less(workload):
    """The highest rate of departures empties the replica soonest, whatever the arrivals."""
    assert -1e-12 <= price_of_myopia(scenario(workload)) < 0.01


def test_it_is_not_defined_where_the_batch_does_not_depend_on_the_policy():
    assert price_of_myopia(scenario(CLOSED)) is None


def test_the_small_model_shares_the_traffic_and_knows_the_means():
    one, two = (small_model(scenario(MMPP, replicas=n), (0, 2)) for n in (1, 2))
    assert [phase.rate for phase in one.phases] == [2, 90]
    assert [phase.rate for phase in two.phases] == [1, 45]
    assert [phase.ends for phase in one.phases] == [0.5, 1.0]
    assert one.output == 100
    assert one.tokens == pytest.approx([1.0, 1.75])
    assert one.seconds.shape == (12, 2)


def test_prices_are_misjudged_by_what_speculation_adds():
    low, true = (make_system(scenario(OPEN, price_error=error)) for error in (-0.2, 0.0))
    assert true.believed is true.prices
    for rows, length, prompt in ((4, 3, 0), (60, 1, 500)):
        off = true.prices.off_seconds(rows, 300, prompt)
        for name, size in (("step_seconds", length), ("verify_seconds", rows * (1 + length))):
            given = (rows, size, 300, prompt)
            right, wrong = (getattr(prices, name)(*given) for prices in (low.prices, low.believed))
            assert wrong - off == pytest.approx(0.8 * (right - off))
        assert low.believed.off_seconds(rows, 300, prompt) == off


def test_policies_go_by_the_wrong_prices_and_oracles_and_the_clock_by_the_right_ones():
    given = [{"kind": "oracle_expected"}, {"kind": "fixed", "length": 3}, {"kind": "moesd"}]
    found = []
    for error in (0.0, 3.0):
        one = scenario(CLOSED, price_error=error, policy=given)
        found.append([simulate(one, spec).summary["output_tokens_per_s"] for spec in one.policies])
    assert found[0][:2] == found[1][:2]
    assert found[1][2] < found[0][2]
    assert make_policy(one.policies[2], make_system(one)).lengths


def test_a_price_error_that_leaves_no_price_is_refused():
    with pytest.raises(ScenarioError, match="price_error"):
        scenario(OPEN, price_error=-1)
