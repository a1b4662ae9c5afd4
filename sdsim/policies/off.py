"""No speculation: the engine is started without a drafter, so neither its weights nor its KV take memory."""

from __future__ import annotations

from sdsim.policy import Observation, Plan, learn_nothing


class Off:
    """Autoregressive decoding: the baseline of every speedup."""

    lossless_at_temperature = True
    loads_drafter = False
    lengths = (0,)
    label = "off"
    _plan = Plan(0, drafter="dropped")

    def plan(self, observation: Observation, /) -> Plan:
        """Draft nothing."""
        return self._plan

    learn = learn_nothing
