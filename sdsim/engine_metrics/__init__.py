"""What a running engine's metrics say of acceptance and load, for a scenario: `python -m sdsim.engine_metrics`.

vLLM counts accepted drafts by position, so the acceptance of every position can be told, each with its interval;
SGLang publishes a mean length only, from which one rate for all positions is solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdsim.engine_metrics.load import sglang_load, vllm_load
from sdsim.engine_metrics.position_rates import position_rates
from sdsim.engine_metrics.scrape import Interval
from sdsim.errors import ScenarioError
from sdsim.policies.acceptance_estimate import tokens_per_step

DEPENDENT = "steps of one request are no independent trials, so intervals are somewhat too narrow"
HIGHEST = 1 - 1e-12


def estimate(interval: Interval, lengths: Sequence[int] = ()) -> dict[str, Any]:
    """Return acceptance and load over *interval*; undefined figures are None.

    *lengths* are the draft lengths that the engine chose among, where the caller knows them. Raises ScenarioError for
    counters that contradict each other or *lengths*.
    """
    vllm = interval.engine == "vllm"
    acceptance, warnings = vllm_acceptance(interval, lengths) if vllm else sglang_acceptance(interval)
    return {
        "engine": interval.engine,
        "seconds": interval.seconds,
        "acceptance": acceptance,
        "load": vllm_load(interval) if vllm else sglang_load(interval),
        "warnings": [*interval.warnings, *warnings],
    }


def vllm_acceptance(interval: Interval, lengths: Sequence[int]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return acceptance by position from vLLM's counters, and warnings; None where nothing was drafted."""
    drafts = interval.counter("vllm:spec_decode_num_drafts_total")
    tokens = interval.counter("vllm:spec_decode_num_draft_tokens_total")
    accepted = interval.positions("vllm:spec_decode_num_accepted_tokens_per_pos_total")
    if not drafts or not tokens or not accepted:
        return None, ["no drafts were verified: acceptance is unknown"]
    positions = position_rates(round(drafts), round(tokens), [round(a) for a in accepted], lengths)
    warnings = [DEPENDENT]
    if any(p.unconditional.rate is None for p in positions):
        warnings.append(
            f"the draft length varied ({tokens / drafts:.2f} tokens in the mean, {len(accepted)} positions) and vLLM "
            "does not export how many drafts had each position: deeper ones are bounded, taking the length as "
            "independent of acceptance; give --lengths, or scrape while one length is in use"
        )
    return {
        "length": 1 + sum(accepted) / drafts,
        "mean_draft_length": tokens / drafts,
        "rate": positions[0].conditional.rate,
        "positions": [p.plain() for p in positions],
    }, warnings


def sglang_acceptance(interval: Interval) -> tuple[dict[str, Any] | None, list[str]]:
    """Return mean acceptance from SGLang's counters of finished requests, and warnings."""
    from scipy.optimize import brentq

    calls = interval.counter("sglang:spec_verify_calls_total")
    tokens = interval.counter("sglang:generation_tokens_total")
    requests = interval.counter("sglang:num_requests_total")
    if not calls or tokens is None or requests is None:
        return None, ["no finished request was verified: acceptance is unknown"]
    length, steps = (tokens - requests) / calls, interval.constant("sglang:spec_num_steps")
    warnings = ["SGLang counts no positions: one rate for all of them is solved from the mean length"]
    rate = None
    if steps is None or not steps:
        warnings.append("the number of draft steps changed or is 0: the mean length does not tell a rate")
    elif not 1 <= length <= steps + 1:
        allowed = f"allowed: 1 to {steps + 1:g}; scrape while the number of steps stands still"
        raise ScenarioError(f"{interval.where}: {length:.2f} tokens a verify step of {steps:g} drafts; {allowed}")
    else:
        reachable = min(length, tokens_per_step(HIGHEST, round(steps)))
        rate = float(brentq(lambda a: tokens_per_step(a, round(steps)) - reachable, 0.0, HIGHEST))
        warnings.append(
            f"the rate takes all steps to have drafted {steps:g}; under --speculative-adaptive some did not"
        )
    return {"length": length, "mean_draft_length": steps, "rate": rate, "positions": []}, warnings
