"""What a step costs: the interface that the simulator charges, whatever stands behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from sdsim.step import StepShape

TARGET = (
    "attention_projections",
    "attention",
    "router",
    "experts",
    "shared_expert",
    "dense_ffn",
    "norms",
    "lm_head",
    "collectives",
    "launch_gaps",
)
COMPONENTS = (*TARGET, "sampling", "draft", "host")


@dataclass(frozen=True, slots=True)
class StepCost:
    """The time of one step, s, by component. Host work overlaps the GPU, so the step may take less than the sum."""

    components: dict[str, float]
    seconds: float
    quality: dict[str, float] = field(default_factory=lambda: {"extrapolated": 1.0})
    """Share of the predicted time that rests on measured, interpolated or extrapolated data."""

    @property
    def target_s(self) -> float:
        """Target forward, verification included."""
        return sum(self.components[name] for name in TARGET)

    @property
    def draft_s(self) -> float:
        """All draft passes."""
        return self.components["draft"]

    @property
    def reject_s(self) -> float:
        """Sampling and rejection."""
        return self.components["sampling"]

    @property
    def overhead_s(self) -> float:
        """Host time, whether or not the GPU hides it."""
        return self.components["host"]


class LatencyModel(Protocol):
    """Prices steps. Must be monotone in tokens and contexts, and deterministic."""

    def seconds(self, shape: StepShape, /) -> float:
        """Return the duration of a step, s."""
        ...

    def cost(self, shape: StepShape, /) -> StepCost:
        """Return the same, split by component."""
        ...
