"""The plans that most laws choose among: the same draft length for all rows, or none."""

from __future__ import annotations

from collections.abc import Iterable

from sdsim.policy import Plan

WARM = Plan(0, drafter="warm")
DROPPED = Plan(0, drafter="dropped")


def uniform(length: int) -> Plan:
    """Return the plan to draft *length* tokens a row; 0 keeps the drafter warm."""
    return Plan(length) if length else WARM


def uniform_plans(lengths: Iterable[int]) -> list[Plan]:
    """Return the plan of each length."""
    return [uniform(length) for length in lengths]
