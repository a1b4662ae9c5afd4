"""No speculation: the engine is started without a drafter, so neither its weights nor its KV take memory."""

from __future__ import annotations

from sdsim.policies.plans import DROPPED
from sdsim.policy import Observation, Plan, learn_nothing


class Off:
    """Autoregressive decoding: the baseline of every speedup."""

    lossless_at_temperature = True
    constant_while = "batch"
    loads_drafter = False
    lengths = (0,)
    label = "off"

    def plan(self, observation: Observation, /) -> Plan:
        """Draft nothing."""
        return DROPPED

    learn = learn_nothing
