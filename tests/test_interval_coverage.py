"""The intervals that summaries print cover the truth 95% of the time, on queues whose truth is known.

The seeds were chosen before their results. An interval over a few seeds asks that each seed's figure is right on
average: a warm-up cut sees to it for means, and requests enough beyond a percentile for percentiles.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sdsim.statistics import mean_summary
from tests.queues import poisson, prompts, served, stays

LOAD, REQUESTS, SEEDS, INTERVALS = 0.5, 400, 4, 100
STAY = 1 / (1 - LOAD)
"""Mean stay of M/M/1 with a mean service of 1 s; the law of stays is exponential."""


def m_m_1(seed):
    """Return a queue of one seed, after a warm-up of 50 services; the SLO is the mean stay."""
    work = 1000 * np.random.default_rng([seed, 3]).exponential(1, REQUESTS)
    return served(
        poisson(LOAD, REQUESTS, seed), np.ones(REQUESTS), 1, prompts, np.maximum(1, np.rint(work)).astype(np.int64),
        replica={"max_num_seqs": 1, "max_num_batched_tokens": 100_000}, warmup=50.0, slo={"e2e": STAY},
        calibration="roofline",
    )  # fmt: skip


@pytest.fixture(scope="module")
def results():
    return [m_m_1(seed) for seed in range(SEEDS * INTERVALS)]


@pytest.fixture(scope="module")
def merged(results):
    """Return the intervals that summaries of a few seeds print."""
    each = [result.summary for result in results]
    return [mean_summary(each[k::INTERVALS])["ci95"] for k in range(INTERVALS)]


def nominal(covered):
    """Assert that as many of the intervals cover as chance lets 95% be: 99.9 times in 100."""
    low, high = stats.binom.interval(0.999, len(covered), 0.95)
    assert low <= sum(covered) <= high, f"{sum(covered)} of {len(covered)} cover"


@pytest.mark.parametrize(("figure", "truth"), [("mean", STAY), ("p50", STAY * np.log(2)), ("p90", STAY * np.log(10))])
def test_intervals_of_latencies_cover(merged, figure, truth):
    spans = [one["e2e_s"][figure] for one in merged]
    nominal([low <= truth <= high for low, high in spans])


def test_intervals_of_attainment_cover(merged):
    spans = [one["slo_attainment"] for one in merged]
    nominal([low <= 1 - np.exp(-1) <= high for low, high in spans])


def test_the_warm_up_cut_takes_the_bias_of_an_empty_start_away(results):
    """The first requests find nobody there; those that count find what PASTA says."""
    first = [stays(result)[:8].mean() for result in results]
    assert stats.ttest_1samp(first, STAY, alternative="less").pvalue < 1e-6
    counted = [result.summary["e2e_s"]["mean"] for result in results]
    assert stats.ttest_1samp(counted, STAY).pvalue > 0.01


def test_the_warm_up_cut_leaves_out_what_came_before_it(results):
    """Figure by figure, counted again from the records."""
    summary, table, steps = results[0].summary, results[0].requests, results[0].steps
    kept = table["arrival_s"] >= 50.0
    spent = (table["finish_s"] - table["arrival_s"])[kept]
    assert 0 < kept.sum() < REQUESTS
    assert summary["requests"] == {"offered": kept.sum(), "finished": kept.sum(), "unfinished": 0}
    assert summary["e2e_s"]["mean"] == pytest.approx(spent.mean(), rel=1e-12)
    assert summary["slo_attainment"] == (spent <= STAY).mean()
    span = table["finish_s"].max() - table["arrival_s"][kept].min()
    assert summary["output_tokens_per_s"] == pytest.approx(kept.sum() / span, rel=1e-12)
    assert summary["steps"] == (steps["start_s"] >= 50.0).sum()
