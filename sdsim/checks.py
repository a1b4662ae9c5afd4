"""Scenarios that are legal and probably not what was meant: a warning and a remedy each."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sdsim.policies import get_policy
from sdsim.scenario import PolicySpec, Scenario

LONGEST_TARGETS = {"ttft": 300.0, "tpot": 2.0}
"""Seconds that nobody waits for a first or a further token."""


def doubtful(scenario: Scenario) -> list[str]:
    """Return warnings about *scenario*, one line each: the key, what is odd about it, and what to do."""
    checks = (_step_budget, _traffic, _slo, _slo_units, _seeds, _warmup, _unused_draft)
    return [warning for check in checks for warning in check(scenario)]


def _longest_draft(policy: PolicySpec) -> int:
    lengths = getattr(get_policy(policy.kind, policy.parameters), "lengths", (0,))
    return max(lengths, default=0)


def _step_budget(scenario: Scenario) -> Iterator[str]:
    replica = scenario.replica
    longest = max(map(_longest_draft, scenario.policies))
    needed = replica.max_num_seqs * (longest + 1)
    if replica.max_num_batched_tokens < needed:
        yield (
            f"replica.max_num_batched_tokens: {replica.max_num_batched_tokens} is less than the {needed} tokens that "
            f"max_num_seqs {replica.max_num_seqs} rows with draft length {longest} verify, so a full batch cannot run; "
            "raise it, or lower max_num_seqs"
        )


def _traffic(scenario: Scenario) -> Iterator[str]:
    workload = scenario.workload
    if workload.kind not in ("bursty", "mmpp", "diurnal"):
        return
    if workload.peak < workload.rate:
        yield f"workload.peak: {workload.peak:g}/s is below the rate of {workload.rate:g}/s; swap them"
    if workload.kind == "mmpp":
        return
    limit_s = workload.limit / workload.rate if workload.limit and workload.rate else math.inf
    calm_s = workload.period * (1 - workload.duty if workload.kind == "bursty" else 0.5)
    end_s = min(limit_s, scenario.until or math.inf)
    if end_s <= calm_s:
        yield (
            f"workload.period: the first peak comes after {calm_s:g} s, when the run is over ({end_s:g} s); "
            "shorten the period, or raise until and limit"
        )


def _slo_units(scenario: Scenario) -> Iterator[str]:
    """Warn of targets in seconds that were meant in milliseconds: 50 is 50 s."""
    targets = {"slo": scenario.slo, **{f"classes.{name}.slo": one.slo for name, one in scenario.classes.items()}}
    for place, slo in targets.items():
        for key, most in LONGEST_TARGETS.items():
            seconds = getattr(slo, key, None)
            if seconds is not None and seconds >= most:
                yield f"{place}.{key}: {seconds:g} s is met by almost anything; write {seconds:g}ms if you mean that"


def _slo(scenario: Scenario) -> Iterator[str]:
    if scenario.slo is None:
        return
    targets = [seconds for seconds in scenario.slo.model_dump().values() if seconds is not None]
    if not targets:
        yield "slo: no target in it, so every finished request meets it; set ttft, tpot or e2e"
    elif scenario.until is not None and scenario.until < max(targets):
        yield f"until: {scenario.until:g} s is shorter than the SLO of {max(targets):g} s; raise it"
    ttft, e2e = scenario.slo.ttft, scenario.slo.e2e
    if ttft is not None and e2e is not None and e2e < ttft:
        yield f"slo.e2e: {e2e:g} s is below ttft, {ttft:g} s, which then has no effect; raise it"


def _seeds(scenario: Scenario) -> Iterator[str]:
    if scenario.seeds == 1 and len(scenario.policies) > 1:
        yield (
            f"seeds: one seed gives no interval for the differences between {len(scenario.policies)} policies; "
            "set seeds: 5"
        )


def _warmup(scenario: Scenario) -> Iterator[str]:
    if scenario.until is not None and scenario.warmup >= scenario.until:
        yield f"warmup: {scenario.warmup:g} s leave nothing of until, {scenario.until:g} s; shorten it"


def _unused_draft(scenario: Scenario) -> Iterator[str]:
    if scenario.draft is not None and all(policy.kind == "off" for policy in scenario.policies):
        yield "draft: no policy uses it; set policy, such as {kind: fixed, length: 3}, or remove the draft"
