"""sdsim: when does speculative decoding pay for a Mixture-of-Experts model, and how should it be scheduled?

The names below are loaded when first used, so that a scheduler that imports a policy pays for numpy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "CalibrationError": "sdsim.errors",
    "CapacityError": "sdsim.errors",
    "Observation": "sdsim.policy",
    "Outcome": "sdsim.policy",
    "Plan": "sdsim.policy",
    "Policy": "sdsim.policy",
    "PolicyError": "sdsim.errors",
    "Result": "sdsim.result",
    "Scenario": "sdsim.scenario",
    "ScenarioError": "sdsim.errors",
    "SdsimError": "sdsim.errors",
    "TraceError": "sdsim.errors",
    "get_policy": "sdsim.policies",
    "load_scenario": "sdsim.scenario",
    "policy_names": "sdsim.policies",
    "scenario_from_mapping": "sdsim.scenario",
    "simulate": "sdsim.simulation",
}

__all__ = [
    "CalibrationError",
    "CapacityError",
    "Observation",
    "Outcome",
    "Plan",
    "Policy",
    "PolicyError",
    "Result",
    "Scenario",
    "ScenarioError",
    "SdsimError",
    "TraceError",
    "get_policy",
    "load_scenario",
    "policy_names",
    "scenario_from_mapping",
    "simulate",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'sdsim' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(home), name)
