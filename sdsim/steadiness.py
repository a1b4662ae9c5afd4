"""Whether a run lasted long enough, and kept up with its traffic: what its figures cannot say by themselves.

A mean over a queue that grows to the end is a mean of nothing, however many seeds agree on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sdsim.result import Result

WINDOWS, FILLING, SAMPLES = 10, 2, 50
"""The traffic is looked at in ten windows, the first two of which may fill the queue; moments looked at in each."""
TREND = 20
"""Kendall's score of eight windows, of 28 pairs, that chance exceeds with 0.7%, had they no order."""
FEWEST_WAITING = 5
FEWEST_STAYS = 10
FEWEST_FINISHED = 100
"""Below it a 99th percentile lies between the two largest values."""


def doubtful_runs(runs: Sequence[Result]) -> list[str]:
    """Return warnings about the runs of one policy, one a seed: what is odd in at least half of them, and what to do."""
    checks: tuple[Callable[[Result], str | None], ...] = (_growing, _short, _few)
    return list(_shared(runs, checks))


def _shared(runs: Sequence[Result], checks: Sequence[Callable[[Result], str | None]]) -> Iterator[str]:
    for check in checks:
        found = [text for run in runs if (text := check(run))]
        if found and 2 * len(found) >= len(runs):
            seeds = f" ({len(found)} of {len(runs)} seeds)" if len(runs) > 1 else ""
            yield f"{runs[0].policy}{seeds}: {found[0]}"


def _growing(run: Result) -> str | None:
    """Return a warning if ever more requests wait for their first token while traffic comes."""
    if run.scenario.workload.kind == "closed" or len(run.requests["arrival_s"]) < FEWEST_WAITING:
        return None
    arrivals = np.sort(run.requests["arrival_s"])
    firsts = np.sort(run.requests["first_token_s"])  # NaN, never, comes last
    moments = np.linspace(arrivals[0], arrivals[-1], WINDOWS * SAMPLES + 1)[1:]
    waiting = np.searchsorted(arrivals, moments, "right") - np.searchsorted(firsts, moments, "right")
    means = waiting.reshape(WINDOWS, SAMPLES).mean(axis=1)[FILLING:]
    later, sooner = np.triu_indices(len(means), 1)[::-1]
    score = np.sign(means[later] - means[sooner]).sum()
    if score < TREND or means[-1] < max(FEWEST_WAITING, 2 * means[0]):
        return None
    return (
        f"ever more requests wait for their first token, {means[0]:.3g} early on and {means[-1]:.3g} at the end of the "
        "traffic: it is more than the replicas can serve, or the run too short to tell; lower the rate, add replicas, "
        "or lengthen the run"
    )


def _short(run: Result) -> str | None:
    """Return a warning if the run is over before a request's stay is a small part of it."""
    table, stay = run.requests, run.summary["e2e_s"]["mean"]
    if stay is None:
        return "no request finished, so there are no latencies; lengthen the run"
    last = np.nanmax(table["finish_s"]) if run.scenario.workload.kind == "closed" else table["arrival_s"].max()
    span = float(last - table["arrival_s"].min())
    if span >= FEWEST_STAYS * stay:
        return None
    return (
        f"the traffic lasts {span:.3g} s and a request stays {stay:.3g} s, so most of them meet a system that fills or "
        "drains; lengthen the run, and set warmup"
    )


def _few(run: Result) -> str | None:
    """Return a warning if too few requests finished for the percentiles."""
    finished = run.summary["requests"]["finished"]
    if not 0 < finished < FEWEST_FINISHED:
        return None
    return f"{finished} requests finished, so p99 is all but their maximum; {FEWEST_FINISHED} at least tell more"
