"""Where a run's time went, recomputed from its step records through the latency model that priced them.

Records hold the tokens of a step and not the KV tokens that it read. All prices but attention's follow from the
former; attention takes what is left of the recorded time, so that the parts add up to it. How drafter and target share
attention rests on an estimate of the stored tokens from the blocks in use. Where the host works ahead, attention also
takes what a step waited for the host, which depends on the step before.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from sdsim.errors import ScenarioError
from sdsim.latency.composition import ComposedLatency
from sdsim.metrics import Columns
from sdsim.policies import get_policy
from sdsim.policy import Drafter, FloatArray, IntArray
from sdsim.recorder import DRAFTER_CODES
from sdsim.result import Result
from sdsim.scenario import PolicySpec
from sdsim.simulation import DEFAULT_LENGTHS, System, make_system
from sdsim.step import StepShape

PARTS = {
    "attention": ("attention_projections", "attention"),
    "experts": ("router", "experts", "shared_expert", "dense_ffn"),
    "head and norms": ("norms", "lm_head"),
    "verify": ("sampling",),
    "draft": ("draft",),
    "collectives": ("collectives",),
    "overhead": ("launch_gaps", "host"),
}
"""Part of a step -> the components of the latency model in it. `verify` is sampling and rejection alone: what verifying
more tokens costs the target is in the parts before it."""
MOMENTS = 400
SLACK = 0.02
"""Share of the time by which a price may exceed its record before it counts as another price."""
_DRAFTERS: dict[float, Drafter] = {code: cast(Drafter, name) for name, code in DRAFTER_CODES.items()}


def time_by_part(result: Result, system: System | None = None, moments: int = MOMENTS) -> dict[str, float]:
    """Return the mean seconds of a step in each of PARTS; they add up to the mean step of *result*.

    They are those of the scenario's own replicas, not of its further pools. Priced are the steps under way at *moments*
    moments, evenly spread over the busy time of these replicas. Raises ScenarioError where the records were priced
    otherwise than *system* (default: the scenario's own) does.
    """
    own = result.steps["replica"] < result.scenario.replicas  # further pools have other GPUs, and so other prices
    steps = {name: column[own] for name, column in result.steps.items()}
    if not len(steps["step"]):
        return dict.fromkeys(PARTS, 0.0)
    (spec,) = result.scenario.policies
    latency = (system or make_system(result.scenario)).latency(longest_draft(spec), loads_drafter(spec))
    chosen = busy_moments(steps["seconds"], moments)
    which, counts = np.unique(chosen, return_counts=True)
    shares = dict.fromkeys(PARTS, 0.0)
    for index, count in zip(which.tolist(), counts.tolist(), strict=True):
        seconds = float(steps["seconds"][index])
        for part, spent in step_parts(latency, steps, index, result.scenario.block_size).items():
            shares[part] += spent / seconds * count / len(chosen)
    _check(shares, result)
    mean = float(steps["seconds"].mean())
    return {part: share * mean for part, share in shares.items()}


def longest_draft(spec: PolicySpec) -> int:
    """Return the longest draft that the policy may ask for, as the simulation has it."""
    policy = get_policy(spec.kind, spec.parameters)
    return max(getattr(policy, "lengths", DEFAULT_LENGTHS)) if loads_drafter(spec) else 0


def loads_drafter(spec: PolicySpec) -> bool:
    """Return whether the policy has the engine started with a drafter."""
    return bool(getattr(get_policy(spec.kind, spec.parameters), "loads_drafter", True))


def busy_moments(seconds: FloatArray, moments: int) -> IntArray:
    """Return the steps at *moments* even moments of the time that steps of *seconds* take in all."""
    ends = np.cumsum(seconds)
    places = (np.arange(moments) + 0.5) / moments * ends[-1]
    found: IntArray = np.minimum(np.searchsorted(ends, places, side="right"), len(ends) - 1)
    return found


def step_parts(latency: ComposedLatency, steps: Columns, index: int, block_size: int) -> dict[str, float]:
    """Return the seconds of step *index* in each of PARTS; the parts add up to its recorded time."""
    shape = recorded_shape(steps, index, block_size)
    cost = latency.cost(shape)
    parts = {part: sum(cost.components[name] for name in names) for part, names in PARTS.items()}
    # Of the host's work, only what the GPU's does not hide takes time.
    parts["overhead"] += cost.seconds - sum(parts.values())
    parts["attention"] += float(steps["seconds"][index]) - cost.seconds
    return parts


def recorded_shape(steps: Columns, index: int, block_size: int) -> StepShape:
    """Return the shape of step *index* as far as records tell it: stored tokens come from the blocks in use."""
    found = {name: values[index] for name, values in steps.items()}
    rows, prefill, length = int(found["rows"]), int(found["prefill_tokens"]), int(found["draft_length"])
    verified, first = int(found["verify_tokens"]), int(found["first_tokens"])
    stored = max(int(found["kv_used_blocks"]) * block_size - rows * block_size // 2, 0) if rows else 0
    shape = StepShape(
        rows=rows,
        verify_tokens=verified,
        context_tokens=stored,
        attention_pairs=stored * verified // max(rows, 1),
        prefill_tokens=prefill,
        prefill_rows=max(first, int(prefill > 0)),
        first_tokens=first,
        draft_length=length,
        draft_rows=rows + first if length else 0,
        distinct_experts=float(found["distinct_experts"]),
    )
    drafter = _DRAFTERS[float(found["drafter"])]
    chunk = prefill // max(shape.prefill_rows, 1)
    return shape._replace(drafter=drafter, prefill_pairs=prefill * (chunk + 1) // 2)


def _check(shares: dict[str, float], result: Result) -> None:
    if shares["attention"] < -SLACK:
        problem = "the recorded steps were priced otherwise than this version prices them"
        raise ScenarioError(f"{result.policy}: {problem}; allowed: prices of one version; run the scenario again")
