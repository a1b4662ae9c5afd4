"""A policy around another: what all wrappers share."""

from __future__ import annotations

from collections.abc import Mapping

from sdsim.policies import get_policy, label
from sdsim.policies.lengths import LONGEST
from sdsim.policy import Outcome, Plan, Policy, StepCosts

Inner = str | Mapping[str, object]
"""A policy's name, or a mapping of its `kind` and parameters."""


class Wrapper:
    """Holds the `inner` policy, and shows its lengths, needs and losslessness as its own.

    Raises PolicyError for an inner policy that cannot be built.
    """

    def __init__(self, name: str, inner: Inner, cost: StepCosts) -> None:
        kind, parameters = _read(inner)
        self.inner: Policy = get_policy(kind, parameters, cost)
        self.label = f"{label(self.inner, kind)}+{name}"
        self.lengths: tuple[int, ...] = tuple(sorted({0, *getattr(self.inner, "lengths", range(LONGEST + 1))}))
        self.needs: frozenset[str] = frozenset(getattr(self.inner, "needs", ()))
        self.lossless_at_temperature = bool(getattr(self.inner, "lossless_at_temperature", False))
        self.loads_drafter = bool(getattr(self.inner, "loads_drafter", True))

    def learn(self, outcome: Outcome, /) -> None:
        """Let the inner policy learn."""
        self.inner.learn(outcome)


def _read(inner: object) -> tuple[str, dict[str, object]]:
    """Return the kind and the parameters of *inner*. YAML reads the name `off` as false."""
    parameters = dict(inner) if isinstance(inner, Mapping) else {"kind": inner}
    kind = parameters.pop("kind", None)
    if kind is False:
        kind = "off"
    if not isinstance(kind, str):
        raise ValueError(f"inner {inner!r}; allowed: a policy's name, or a mapping such as {{kind: fixed, length: 3}}")
    return kind, parameters


def rank(plan: Plan) -> int:
    """Return a plan's place in the order dropped, warm, 1 draft, 2 drafts, ..."""
    return -1 if plan.drafter == "dropped" else plan.draft_length


def drafting_as(plan: Plan, other: Plan) -> Plan:
    """Return *plan* with the draft length and drafter of *other*."""
    return plan._replace(draft_length=other.draft_length, drafter=other.drafter)
