"""Steady decode steps: one record a batch size of one engine process."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, model_validator

from sdsim.measurements.record import Record, WholeOrZero
from sdsim.policies.acceptance_estimate import tokens_per_step
from sdsim.scenario.fields import Count, NonNegativeNumber, PositiveNumber

WARM_STEPS = 12
"""Steps that the recorder runs before it measures."""
MEASURED_STEPS = 48


class StepRecord(Record):
    """The median step of *batch* sequences of *prompt* tokens that decode together."""

    batch: Count = Field(alias="B")
    prompt: WholeOrZero = Field(default=0, alias="P")
    step_ms_median: PositiveNumber
    tokens_per_seq_step: PositiveNumber | None = None
    n: Count = MEASURED_STEPS
    """Measured steps."""
    context: PositiveNumber | None = None
    """Mean stored tokens of a sequence during the measured steps, if the recorder knows."""
    target_ms: NonNegativeNumber | None = None
    rejection_ms: NonNegativeNumber | None = None
    draft_ms: NonNegativeNumber | None = None
    distinct_experts: NonNegativeNumber | None = None
    """Mean over the MoE layers."""
    init_s: NonNegativeNumber | None = None
    """Start-up time of the process, which tells one process from another."""

    @model_validator(mode="after")
    def _has_context(self) -> StepRecord:
        if not self.prompt and self.context is None:
            raise ValueError("P: missing; allowed: the prompt's tokens, or the mean context; add P or context")
        return self

    @property
    def step_s(self) -> float:
        """Measured median step, s."""
        return self.step_ms_median / 1e3

    @property
    def parts(self) -> dict[str, float]:
        """The measured parts of the step: seconds by what predictions call them, and distinct experts."""
        found = {"target_s": self.target_ms, "reject_s": self.rejection_ms, "draft_s": self.draft_ms}
        parts = {name: ms / 1e3 for name, ms in found.items() if ms}
        return parts | ({"distinct_experts": self.distinct_experts} if self.distinct_experts else {})

    @property
    def expected_tokens(self) -> float:
        """Tokens a sequence is expected to gain in a step (Leviathan et al. 2023, equation 1)."""
        return tokens_per_step(min(self.alpha or 0.0, 1 - 1e-12), self.draft_length)

    @property
    def mean_context(self) -> float:
        """Stored tokens of a sequence in the middle of the measured steps."""
        if self.context is not None:
            return self.context
        return self.prompt + (self.tokens_per_seq_step or self.expected_tokens) * (WARM_STEPS + self.n / 2)


@dataclass(frozen=True, slots=True)
class StepMeasurement:
    """A step record with the batch limit of the process that it comes from."""

    record: StepRecord
    max_num_seqs: int


def with_limits(records: list[StepRecord]) -> list[StepMeasurement]:
    """Return *records* with their process's batch limit, where a record does not tell: its largest batch."""
    largest: dict[object, int] = {}
    for r in records:
        largest[_process(r)] = max(largest.get(_process(r), 0), r.batch)
    return [StepMeasurement(r, r.max_num_seqs or largest[_process(r)]) for r in records]


def _process(r: StepRecord) -> object:
    return r.model, r.draft, r.draft_length, r.engine, r.gpu, r.init_s
