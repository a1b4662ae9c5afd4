"""Speculation policies, one law a file. Each needs numpy and the standard library only.

`get_policy` finds a built-in by name, a third party's through the entry-point group `sdsim.policies`, or any class as
`module:Class` or `folder/module.py:Class`. The constructor's signature is the policy's schema; one that prices steps
takes `cost`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from sdsim.errors import PolicyError, unknown
from sdsim.policy import Policy, StepCosts

BUILT_IN = {
    "adaserve": "sdsim.policies.adaserve:Adaserve",
    "adaspec": "sdsim.policies.adaspec:Adaspec",
    "auto": "sdsim.policies.auto:Auto",
    "batch_context_table": "sdsim.policies.batch_context_table:BatchContextTable",
    "batch_table": "sdsim.policies.batch_table:BatchTable",
    "cascade": "sdsim.policies.cascade:Cascade",
    "cascade_per_request": "sdsim.policies.cascade_per_request:CascadePerRequest",
    "confidence_stop": "sdsim.policies.confidence_stop:ConfidenceStop",
    "cooldown": "sdsim.policies.cooldown:Cooldown",
    "disable_by_batch": "sdsim.policies.disable_by_batch:DisableByBatch",
    "disable_by_queue": "sdsim.policies.disable_by_queue:DisableByQueue",
    "dsde": "sdsim.policies.dsde:Dsde",
    "dspark": "sdsim.policies.dspark:Dspark",
    "echo": "sdsim.policies.echo:Echo",
    "evict": "sdsim.policies.evict:Evict",
    "exp3": "sdsim.policies.exp3:Exp3",
    "fixed": "sdsim.policies.fixed:Fixed",
    "goodput": "sdsim.policies.goodput:Goodput",
    "graph_snap": "sdsim.policies.graph_snap:GraphSnap",
    "hysteresis": "sdsim.policies.hysteresis:Hysteresis",
    "kv_priced": "sdsim.policies.kv_priced:KvPriced",
    "magicdec": "sdsim.policies.magicdec:MagicDec",
    "marginal_experts": "sdsim.policies.marginal_experts:MarginalExperts",
    "min_dwell": "sdsim.policies.min_dwell:MinDwell",
    "model_predictive": "sdsim.policies.model_predictive:ModelPredictive",
    "moesd": "sdsim.policies.moesd:Moesd",
    "nightjar": "sdsim.policies.nightjar:Nightjar",
    "off": "sdsim.policies.off:Off",
    "oracle_expected": "sdsim.policies.oracle_expected:OracleExpected",
    "oracle_realised": "sdsim.policies.oracle_realised:OracleRealised",
    "position_goodput": "sdsim.policies.position_goodput:PositionGoodput",
    "prefill_riding": "sdsim.policies.prefill_riding:PrefillRiding",
    "priority_split": "sdsim.policies.priority_split:PrioritySplit",
    "safe": "sdsim.policies.safe:Safe",
    "sglang_adaptive": "sdsim.policies.sglang_adaptive:SglangAdaptive",
    "slos_serve": "sdsim.policies.slos_serve:SlosServe",
    "staleness": "sdsim.policies.staleness:Staleness",
    "tetris": "sdsim.policies.tetris:Tetris",
    "thompson": "sdsim.policies.thompson:Thompson",
    "throughput_aware": "sdsim.policies.throughput_aware:ThroughputAware",
    "ucb": "sdsim.policies.ucb:Ucb",
}


def policy_names() -> list[str]:
    """Return the names of the built-in and installed policies."""
    return sorted({*BUILT_IN, *(e.name for e in entry_points(group="sdsim.policies"))})


def policy_class(kind: str) -> type[Any]:
    """Return the class that *kind* names, or raise PolicyError."""
    place = BUILT_IN.get(kind) or (kind if ":" in kind else None)
    if place is None:
        found = [e.value for e in entry_points(group="sdsim.policies") if e.name == kind]
        if not found:
            message = f"{unknown('policy', kind, policy_names())}; or name a class as module:Class"
            raise PolicyError(message)
        place = found[0]
    module, _, name = place.rpartition(":")
    try:
        loaded: type[Any] = getattr(_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError, OSError) as error:
        raise PolicyError(f"policy {kind!r} cannot be loaded: {error}; check the module and class names") from None
    except (Exception, SystemExit) as error:  # what the module itself raises
        raise PolicyError(f"policy {kind!r} cannot be loaded: {type(error).__name__}: {error}; mend it") from error
    return loaded


def _module(name: str) -> ModuleType:
    """Return the module *name*, or the one in the file *name* if it ends in .py, run once."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = str(Path(name).resolve())
    if path not in sys.modules:
        spec = importlib.util.spec_from_file_location(path, path)
        assert spec is not None  # whatever its name, Python can load what ends in .py
        assert spec.loader is not None
        sys.modules[path] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[path])
        except BaseException:
            del sys.modules[path]
            raise
    return sys.modules[path]


def usual_lengths(kind: str) -> tuple[int, ...]:
    """Return the draft lengths that policy *kind* chooses among unless it is told others; none if it takes none."""
    lengths = inspect.signature(policy_class(kind)).parameters.get("lengths")
    return () if lengths is None or not isinstance(lengths.default, tuple) else lengths.default


def check_parameters(kind: str, parameters: Mapping[str, object]) -> None:
    """Raise PolicyError unless *parameters* fit the constructor of policy *kind*; builds it with a flat price."""
    get_policy(kind, parameters, FlatCosts())


def get_policy(kind: str, parameters: Mapping[str, object] | None = None, cost: StepCosts | None = None) -> Policy:
    """Return a fresh policy. Raises PolicyError for an unknown name, parameter or value."""
    parameters = dict(parameters or {})
    maker = policy_class(kind)
    accepted = inspect.signature(maker).parameters
    problems = [
        f"policy {kind}: {unknown('parameter', name, [p for p in accepted if p != 'cost'])}"
        for name in parameters
        if name not in accepted or name == "cost"
    ]
    missing = [
        name
        for name, p in accepted.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in parameters
    ]
    problems += [f"policy {kind}: parameter {name!r} is missing; give it" for name in missing if name != "cost"]
    if problems:
        raise PolicyError(*problems)
    if "cost" in accepted:
        parameters["cost"] = cost if cost is not None else FlatCosts()
    try:
        policy: Policy = maker(**parameters)
    except (TypeError, ValueError) as error:
        raise PolicyError(f"policy {kind}: {error}") from None
    except PolicyError:  # of a policy within
        raise
    except (Exception, SystemExit) as error:
        raise PolicyError(f"policy {kind}: cannot be built: {type(error).__name__}: {error}; mend it") from error
    if not isinstance(policy, Policy):
        raise PolicyError(f"policy {kind}: {maker.__name__} has no plan and learn; see sdsim.policy.Policy")
    return policy


def label(policy: Policy, kind: str) -> str:
    """Return how a result names *policy*: its own label, or *kind*, without the folders if it names a file."""
    return str(getattr(policy, "label", Path(kind).name))


class FlatCosts:
    """Every step takes a second: for building a policy where no prices are at hand."""

    def step_seconds(self, rows: int, draft_length: int, context: float, prefill_tokens: int = 0) -> float:
        """Return 1."""
        return 1.0

    def verify_seconds(
        self, rows: int, verify_tokens: int, context: float, prefill_tokens: int = 0, draft_length: int = 0
    ) -> float:
        """Return 1."""
        return 1.0

    def off_seconds(self, rows: int, context: float, prefill_tokens: int = 0) -> float:
        """Return 1."""
        return 1.0
