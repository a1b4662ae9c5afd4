"""The steps of an engine whose host works ahead: it schedules and launches a step while the one before runs.

A step then waits for its host only where that needs more time than the step before left it: launching a long prompt
kernel by kernel behind a short decode step, or starting from rest. This is state between steps, so a run has one for
each replica; `LatencyModel.seconds` is the same in the steady state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdsim.step import StepShape

if TYPE_CHECKING:
    from sdsim.latency.composition import ComposedLatency


class Pipeline:
    """Times the steps of one replica, one after another."""

    def __init__(self, latency: ComposedLatency) -> None:
        self._latency = latency
        self.launched_s = 0.0
        """When the host had launched the step priced last, s from the end of the step before; 0 if by then."""
        self._ahead = 0.0

    def rest(self) -> None:
        """Note that the replica had nothing to do: the next step starts from rest."""
        self._ahead = 0.0

    def seconds(self, shape: StepShape, /) -> float:
        """Return the time from the end of the step before to the end of this one, s."""
        work = self._latency.phases(shape)
        late = self._latency.host_s(work.rows) - self._ahead
        launched = late + work.launch_target_s + work.launch_draft_s
        seconds = max(max(late, 0.0) + work.gpu_s, launched)
        # the host goes on when it has launched this step and has the tokens of the one before, which is at its start
        self.launched_s = max(launched, 0.0)
        self._ahead = seconds - self.launched_s
        return seconds
