"""The policies that a recommendation chooses among, the simplest first."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import yaml

from sdsim.engine_config import ranges
from sdsim.errors import PolicyError, ScenarioError
from sdsim.experiment import told_apart
from sdsim.policies import label, policy_class, policy_names
from sdsim.policy import IntArray, Policy, learn_nothing
from sdsim.recommendation.ranking import Contender
from sdsim.scenario import PolicySpec, Scenario, policy_spec
from sdsim.simulation import System, make_policy

TUNED = "batch_table"
"""Named without a table, it is the one found by pricing."""
DEFAULT = "auto"
OFF = PolicySpec(kind="off")


def default_policies(scenario: Scenario, table: IntArray, lengths: Sequence[int]) -> list[PolicySpec]:
    """Return off, the tuned *table*, each constant of *lengths*, laws that decide live, and the scenario's policies."""
    own = [spec for spec in scenario.policies if not _needs_truth(spec)]
    taken = {spec.kind for spec in own}
    found = [OFF, table_policy(table)]
    found += [PolicySpec(kind="fixed", parameters={"length": k}) for k in lengths if k and set(table.tolist()) != {k}]
    found += [PolicySpec(kind=name, parameters={"lengths": list(lengths)}) for name in live_laws() if name not in taken]
    return [*found, *(spec for spec in own if spec not in found)]


def live_laws() -> list[str]:
    """Return the installed laws that any engine can run untuned.

    They price the steps of given lengths, change no output, and need no optional field of an observation; DEFAULT uses
    one where it is there.
    """
    return [name for name in policy_names() if name == DEFAULT or _untuned(policy_class(name))]


def _untuned(law: type[Any]) -> bool:
    parameters = inspect.signature(law).parameters
    required = {name for name, one in parameters.items() if one.default is one.empty}
    exact = getattr(law, "lossless_at_temperature", False)
    return {"cost", "lengths"} <= set(parameters) and required <= {"cost", "lengths"} and exact and not _needs(law)


def named_policies(text: str, table: IntArray) -> list[PolicySpec]:
    """Return the policies in *text*, such as `off, goodput, {kind: fixed, length: 2}`; off is always among them.

    Raises ScenarioError for what is no policy, or needs what only a simulation knows.
    """
    try:
        words: Any = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        raise ScenarioError(f"--policies: {text!r}; allowed: names and mappings, such as off,goodput") from None
    found = [OFF]
    for word in words:
        spec = table_policy(table) if word == TUNED else _spec(word)
        if spec not in found:
            found.append(spec)
    return found


def _spec(word: object) -> PolicySpec:
    spec = policy_spec(word, "--policies")
    if _needs_truth(spec):
        raise ScenarioError(f"--policies: {spec.kind} plans by what only a simulation knows; allowed: real policies")
    return spec


def table_policy(table: IntArray) -> PolicySpec:
    """Return the policy that looks *table* up."""
    return PolicySpec(kind=TUNED, parameters={"table": ranges(table)})


def contenders(policies: Sequence[PolicySpec], table: IntArray, system: System) -> list[Contender]:
    """Return *policies* by their labels, told apart, *table* being the tuned one."""
    tuned = table_policy(table)
    labels = [(label(make_policy(spec, system), spec.kind), spec) for spec in policies]
    return [Contender(name, spec, tuned=spec == tuned) for name, spec in zip(told_apart(labels), policies, strict=True)]


def lengths_of(spec: PolicySpec, policy: Policy) -> list[int]:
    """Return the draft lengths that *policy* chooses among."""
    if spec.kind == "fixed":
        return [int(spec.parameters["length"])]
    if spec.kind == TUNED:
        return sorted({length for _, _, length in spec.parameters["table"]})
    return sorted(getattr(policy, "lengths", (0,)))


def learns(policy: Policy) -> bool:
    """Return whether what *policy* plans depends on what it has seen."""
    return type(policy).learn is not learn_nothing


def usual_batches(one: Contender) -> tuple[int, int]:
    """Return the least and most decode rows that were usual in any run of *one*."""
    low, high = zip(*(trial.usual_batches for trial in one.trials), strict=True)
    return min(low), max(high)


def check_lengths(policies: Sequence[PolicySpec], system: System, longest: int) -> None:
    """Raise PolicyError if any of *policies* drafts beyond the *longest* draft that acceptance is known for."""
    problems = [
        f"policy: {spec.kind} drafts up to {max(lengths)} tokens, but acceptance is known for {longest} positions; "
        "shorten its lengths, or choose with --policies and --lengths"
        for spec in policies
        if max(lengths := lengths_of(spec, make_policy(spec, system))) > longest
    ]
    if problems:
        raise PolicyError(*problems)


def _needs(law: type[Any]) -> frozenset[str]:
    return frozenset(getattr(law, "needs", ()))


def _needs_truth(spec: PolicySpec) -> bool:
    return "truth" in _needs(policy_class(spec.kind))
