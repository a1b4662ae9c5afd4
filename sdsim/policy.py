"""The contract between a scheduler and a speculation policy.

A scheduler, simulated or real, asks `plan` before each step and tells `learn` what came of it,
some steps later. This module needs numpy and the standard library only, so that a serving engine
can import it and any policy without the simulator.

A policy may declare four class attributes: `needs`, the optional fields of `Observation` that it
reads (from `OPTIONAL_FIELDS`; a scheduler fills only these); `does_without`, those among them whose
absence it handles; `lossless_at_temperature`, whether sampled output keeps the target's
distribution under it; and `constant_while = "batch"`, where its plans follow from the number of rows
alone, so that a scheduler may ask once for each. An oracle needs "truth": a simulation sets its
attribute of that name to a `Truth` before the first step, and nothing else can.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Drafter = Literal["on", "warm", "dropped"]

OPTIONAL_FIELDS = frozenset({"slo_slack", "confidence"})


class Observation(NamedTuple):
    """What a policy may know before a step. Arrays are aligned by decode row, oldest first.

    The arrays are read-only views of the scheduler's state: they hold during `plan` only, so a
    policy copies what it wants to keep.
    """

    step: int
    """Number of the step, from 0."""
    now: float
    """Scheduler time, s."""
    request_ids: IntArray
    """(rows,) ids of the decoding requests."""
    context_lengths: IntArray
    """(rows,) tokens whose KV is stored."""
    generated: IntArray
    """(rows,) output tokens emitted so far."""
    slo_slack: FloatArray | None
    """(rows,) seconds by which a row is ahead of its TPOT target; None without one or if not needed."""
    prefill_tokens: int
    """Prompt tokens that the step will carry beside the decode rows."""
    waiting: int
    """Requests that wait for admission."""
    kv_free: int
    """Free KV blocks."""
    draft_lengths: tuple[int, ...]
    """The draft lengths that the engine can run, ascending, always with 0."""
    pending: IntArray
    """(rows,) draft tokens that wait for verification in this step."""
    confidence: FloatArray | None = None
    """(rows, positions) the drafter's confidence in each pending draft; None if not needed."""
    prefill_requests: int = 0
    """Requests whose prompt the step carries, whatever the size of their chunks."""
    context_tokens: int | None = None
    """Sum of `context_lengths`, where it is known already; `stored_tokens` adds them up otherwise."""

    @property
    def batch(self) -> int:
        """Decode rows of the step."""
        return len(self.request_ids)

    @property
    def stored_tokens(self) -> int:
        """Tokens whose KV is stored, over all rows."""
        return int(np.add.reduce(self.context_lengths)) if self.context_tokens is None else self.context_tokens


class Plan(NamedTuple):
    """What a policy decides for one step."""

    draft_length: int
    """Tokens to draft per row at the end of this step; one of `Observation.draft_lengths`."""
    verify_lengths: IntArray | None = None
    """(rows,) drafts to verify in this step, each at most `pending`; None verifies all."""
    drafter: Drafter = "on"
    """`on` drafts; `warm` keeps the drafter's KV in step; `dropped` unloads it. Not `on` needs draft_length 0."""
    prefill_budget: int | None = None
    """Upper bound on the step's prompt tokens; None leaves them as scheduled."""


class Outcome(NamedTuple):
    """What came of a step. It may reach `learn` late, twice or never."""

    step: int
    seconds: float
    """Duration of the step, s."""
    request_ids: IntArray
    """(rows,) the decode rows of the step."""
    verified: IntArray
    """(rows,) drafts verified."""
    accepted: IntArray
    """(rows,) drafts accepted."""
    distinct_experts: float | None
    """Mean distinct experts a MoE layer of the target loaded, or None where unknown."""
    tally: tuple[int, int] | None = None
    """What `trials` returns, where it is known already."""

    @property
    def trials(self) -> tuple[int, int]:
        """Drafts won and drafts tried, over all rows: a chain that lost a draft tried that one and none behind it."""
        if self.tally is not None:
            return self.tally
        won = int(np.add.reduce(self.accepted))
        return won, won + int(np.count_nonzero(self.accepted < self.verified))


WHOLE = (int, np.integer)
IDLE = ("warm", "dropped")
"""What a drafter may be that drafts nothing."""


def plan_fault(plan: object, draft_lengths: Collection[int], pending: IntArray) -> str | None:
    """Return what makes *plan* illegal where rows have (rows,) *pending* drafts, and what is allowed; None if legal."""
    if not isinstance(plan, Plan):
        return f"{plan!r}; allowed: a Plan; return Plan(draft_length=...)"
    length, budget = plan.draft_length, plan.prefill_budget
    if not isinstance(length, WHOLE) or length not in draft_lengths:
        return f"draft length {length}; allowed: {tuple(sorted(draft_lengths))}"
    if plan.drafter != "on" and (length or plan.drafter not in IDLE):
        return f"to draft {length} with the drafter {plan.drafter}; allowed: on, else 0 and {IDLE}"
    if budget is not None and (not isinstance(budget, WHOLE) or budget < 0):
        return f"prefill budget {budget}; allowed: 0 or more tokens, or None"
    if plan.verify_lengths is not None:
        lengths = np.asarray(plan.verify_lengths)
        if lengths.dtype.kind not in "iu" or lengths.shape != pending.shape:
            return f"verify lengths {lengths}; allowed: {len(pending)} whole numbers"
        if (lengths < 0).any() or (lengths > pending).any():
            return f"verify lengths {lengths}; allowed: 0 to pending, {pending}"
    return None


@runtime_checkable
class Policy(Protocol):
    """Decides the draft length. Deterministic given its observations, so that ranks agree; reads no clock."""

    def plan(self, observation: Observation, /) -> Plan:
        """Decide the step about to run."""
        ...

    def learn(self, outcome: Outcome, /) -> None:
        """Take in the outcome of an earlier step."""
        ...


class Truth(Protocol):
    """The acceptances that a simulated run will have: what an oracle plans by. Arrays are aligned by row."""

    def rates(self, request_ids: IntArray, length: int) -> FloatArray:
        """Return (rows, length) the conditional acceptance of each draft of a chain of *length*, before it is drawn."""
        ...

    def chances(self, request_ids: IntArray, generated: IntArray, length: int) -> FloatArray:
        """Return (rows, length) the same for the very tokens drafted from output position *generated* on."""
        ...

    def depths(self, request_ids: IntArray, generated: IntArray, pending: IntArray) -> IntArray:
        """Return (rows,) how many of *pending* drafts from *generated* on the target will accept."""
        ...


def learn_nothing(self: Any, outcome: Outcome, /) -> None:
    """The `learn` of a policy without memory: `learn = learn_nothing` spares the scheduler the outcome."""


class StepCosts(Protocol):
    """Prices steps for a policy; the same calibration live and simulated. Times in s."""

    def step_seconds(self, rows: int, draft_length: int, context: float, prefill_tokens: int = 0) -> float:
        """Return the time of a whole step that verifies and then drafts *draft_length* tokens a row.

        *context* is the mean KV length of the rows; draft_length 0 is the step with the drafter warm.
        """
        ...

    def verify_seconds(
        self, rows: int, verify_tokens: int, context: float, prefill_tokens: int = 0, draft_length: int = 0
    ) -> float:
        """Return the time of a whole step whose *rows* rows verify *verify_tokens* positions in all, then draft.

        *verify_tokens* counts 1 + verify length for each row, and the rows share it evenly. With rows x
        (1 + *draft_length*) of them it is `step_seconds`.
        """
        ...

    def off_seconds(self, rows: int, context: float, prefill_tokens: int = 0) -> float:
        """Return the time of the same step with the drafter dropped."""
        ...
