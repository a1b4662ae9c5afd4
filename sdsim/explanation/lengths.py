"""Every draft length that a step had: what it would cost and bring if it were kept.

At length K each row verifies and then drafts K tokens, and emits (1 - a^(K+1)) / (1 - a) tokens at acceptance a
(Leviathan et al. 2023, eq. 1). Rows, their mean context and the prompt tokens beside them are those of the step.
"""

from __future__ import annotations

from sdsim.explanation.record import Facts
from sdsim.latency import StepCost
from sdsim.policies.acceptance_estimate import tokens_per_step
from sdsim.replay import Step
from sdsim.simulation import System
from sdsim.step import StepShape


def alternatives(system: System, seen: Step, rate: float) -> list[Facts]:
    """Return each length with its gain in tokens/s over the one chosen, OFF (None) last; empty if nothing can draft."""
    if not rows_of(seen):
        return []
    lengths: list[int | None] = list(seen.observation.draft_lengths) if seen.shape.drafter != "dropped" else []
    table = [_figures(system, seen, length, rate) for length in [*lengths, None]]
    chosen = next((t for t in table if t["draft_length"] == seen.plan.draft_length), table[-1])
    return [{**t, "gain": t["tokens_per_s"] / chosen["tokens_per_s"] - 1, "chosen": t is chosen} for t in table]


def _figures(system: System, seen: Step, length: int | None, rate: float) -> Facts:
    rows, tokens = rows_of(seen), tokens_per_step(rate, length or 0)
    seconds = cost_at(system, seen, length).seconds
    return {
        "draft_length": length,
        "step_s": seconds,
        "tokens_per_row": tokens,
        "tokens_per_s": rows * tokens / seconds,
        "distinct_experts": shape_at(system, seen, length).distinct_experts,
    }


def cost_at(system: System, seen: Step, length: int | None) -> StepCost:
    """Return the split cost of the step at *length*; None is OFF."""
    latency = system.latency(0, False) if length is None else system.latency(seen.observation.draft_lengths[-1])
    return latency.cost(shape_at(system, seen, length))


def shape_at(system: System, seen: Step, length: int | None) -> StepShape:
    """Return the step as it would be had it always been *length*; None is OFF."""
    prompt = seen.observation.prefill_tokens if seen.observation.batch else 0
    shape = system.prices.shape(rows_of(seen), length or 0, _context(seen), prompt)
    return shape._replace(drafter="dropped") if length is None else shape


def rows_of(seen: Step) -> int:
    """Return the decode rows; where there are none, the requests that will be rows after the step."""
    return seen.shape.rows or seen.shape.first_tokens


def _context(seen: Step) -> float:
    if seen.observation.batch:
        return float(seen.observation.context_lengths.mean())
    return (seen.shape.prefill_context + seen.shape.prefill_tokens) / max(seen.shape.prefill_rows, 1)
