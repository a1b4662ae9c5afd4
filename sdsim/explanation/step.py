"""One step: what the policy saw, chose and expected, and what every other length would have cost."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from sdsim.explanation.lengths import alternatives
from sdsim.explanation.reasons import reasons
from sdsim.explanation.record import Facts, check_same, differs, recorded, step_row
from sdsim.metrics import Columns
from sdsim.policies.acceptance_estimate import AcceptanceEstimate
from sdsim.policy import Observation, Policy
from sdsim.replay import Step, replay
from sdsim.result import Result
from sdsim.simulation import System, make_system

OWN = "the policy's own estimate"
TOLD = "from the outcomes it had been told, since it keeps no rate of its own"


@dataclass(frozen=True, slots=True)
class Explanation:
    """One step explained; each part is ready for JSON. Times in s, tokens/s of the replica."""

    policy: str
    law: str
    """What the policy's author says that it does, and its parameters."""
    replica: int
    step: int
    saw: Facts
    chose: Facts
    happened: Facts
    lengths: list[Facts]
    """One row a draft length that it may choose, and OFF; empty where nothing can draft."""
    why: list[str]

    def json(self) -> Facts:
        """Return all of it."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def explain_step(result: Result, replica: int, step: int) -> Explanation:
    """Run *result* again up to *step* of *replica*, and explain it. Raises ScenarioError if there is no such step."""
    row = step_row(result, replica, step)
    system = make_system(result.scenario)
    found: list[Explanation] = []

    def visit(seen: Step) -> bool:
        here = seen.replica == replica and seen.observation.step == step and recorded(result.steps, row, seen)
        if here:
            check_same(result.steps, row, seen)
            found.append(_explain(result, system, seen, row))
        return here

    replay(result, visit, system)
    if not found:
        raise differs(f"step {step} of replica {replica}")
    return found[0]


def _explain(result: Result, system: System, seen: Step, row: int) -> Explanation:
    rate, source = believed(seen)
    lengths = alternatives(system, seen, rate)
    (spec,) = result.scenario.policies
    return Explanation(
        policy=result.policy,
        law=law(seen.policy, spec.parameters),
        replica=seen.replica,
        step=seen.observation.step,
        saw=_saw(seen.observation) | {"believed_acceptance": rate, "believed_from": source},
        chose=_chose(seen),
        happened=_happened(result.steps, row),
        lengths=lengths,
        why=reasons(system, seen, lengths, rate),
    )


def believed(seen: Step) -> tuple[float, str]:
    """Return the acceptance rate that the policy believes in, or what it could from the outcomes told; and which."""
    own = next(_estimates(seen.policy), None)
    return (own.rate, OWN) if own is not None else (seen.told.rate, TOLD)


def _estimates(policy: object) -> Iterator[AcceptanceEstimate]:
    """Yield the estimates that a policy keeps, or a policy within it."""
    for value in getattr(policy, "__dict__", {}).values():
        if isinstance(value, AcceptanceEstimate):
            yield value
        elif isinstance(value, Policy):
            yield from _estimates(value)


def law(policy: Policy, parameters: Facts) -> str:
    """Return what the policy's class says of itself, in a sentence, and the parameters that it was given."""
    text = inspect.getdoc(type(policy)) or f"{type(policy).__name__} does not say what it does."
    sentence = " ".join(text.split("\n\n")[0].split()).replace("*", "")
    given = ", ".join(f"{name} {value}" for name, value in parameters.items())
    return f"{sentence} ({given})" if given else sentence


def _saw(seen: Observation) -> Facts:
    contexts, pending = seen.context_lengths, seen.pending
    return {
        "now_s": seen.now,
        "batch": seen.batch,
        "context_mean_tokens": float(contexts.mean()) if len(contexts) else None,
        "context_max_tokens": int(contexts.max()) if len(contexts) else None,
        "waiting": seen.waiting,
        "kv_free_blocks": seen.kv_free,
        "prefill_tokens": seen.prefill_tokens,
        "prefill_requests": seen.prefill_requests,
        "pending_drafts": int(pending.sum()),
        "draft_lengths": list(seen.draft_lengths),
    }


def _chose(seen: Step) -> Facts:
    plan = seen.plan
    return {
        "draft_length": plan.draft_length,
        "drafter": plan.drafter,
        "verified_drafts": seen.shape.verify_tokens - seen.shape.rows,
        "verify_lengths": None if plan.verify_lengths is None else np.asarray(plan.verify_lengths).tolist(),
        "prefill_budget": plan.prefill_budget,
    }


def _happened(steps: Columns, row: int) -> Facts:
    found = {name: float(steps[name][row]) for name in ("seconds", "distinct_experts")}
    counts = {name: int(steps[name][row]) for name in ("emitted_tokens", "accepted_tokens", "first_tokens")}
    return {**found, **counts, "tokens_per_s": counts["emitted_tokens"] / found["seconds"]}
