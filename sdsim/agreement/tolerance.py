"""How far a prediction may be off, and whether it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sdsim.errors import ScenarioError, unknown
from sdsim.units import NOT_NEGATIVE, parse_number

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Largest relative errors; those of steps are of the errors' size over a model's steps."""

    steps_median: float = 0.05
    steps_p90: float = 0.10
    tpot: float = 0.07
    """Of a replay's p50 and p90."""
    throughput: float = 0.05
    ttft: float = 0.15
    """Of a replay's p50, below saturation: a queue that grows multiplies every error."""


@dataclass(frozen=True, slots=True)
class Check:
    """One figure held against its tolerance."""

    what: str
    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance."""
        return abs(self.error) <= self.allowed

    def row(self) -> Row:
        """Return it as plain values."""
        return {"what": self.what, "error": self.error, "allowed": self.allowed, "ok": self.ok}


def parse_tolerances(text: str) -> Tolerances:
    """Return the defaults with *text*, such as `steps_median=5%,tpot=0.1`, carried out; or raise ScenarioError."""
    known = [f.name for f in fields(Tolerances)]
    changed = {}
    for part in filter(None, (word.strip() for word in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in known or not equals:
            raise ScenarioError(f"--tolerance: {unknown('tolerance', name, known)}; write steps_median=5%,tpot=7%")
        try:
            number = parse_number(value.removesuffix("%").strip(), NOT_NEGATIVE)
        except ValueError as error:
            raise ScenarioError(f"--tolerance: {name}: {error}, or 5%") from None
        changed[name] = number / 100 if value.endswith("%") else number
    return replace(Tolerances(), **changed)


def step_checks(summaries: Sequence[Row], allowed: Tolerances) -> list[Check]:
    """Return the checks of `step_summaries`: each model must pass by itself."""
    found = []
    for one in summaries:
        name = f"{one['model']} steps"
        found += [
            Check(f"{name}, median", one["median"], allowed.steps_median),
            Check(f"{name}, p90", one["p90"], allowed.steps_p90),
        ]
    return found


def run_checks(name: str, figures: Row, saturated: bool, allowed: Tolerances) -> list[Check]:
    """Return the checks of compared client figures; what is undefined on a side is left out."""
    wanted = [("TPOT p50", figures["tpot_s"]["error"]["p50"], allowed.tpot)]
    wanted += [("TPOT p90", figures["tpot_s"]["error"]["p90"], allowed.tpot)]
    wanted += [("throughput", figures["output_tokens_per_s"]["error"], allowed.throughput)]
    if not saturated:
        wanted += [("TTFT p50", figures["ttft_s"]["error"]["p50"], allowed.ttft)]
    return [Check(f"{name}, {what}", error, most) for what, error, most in wanted if error is not None]


def replay_checks(rows: Sequence[Row], allowed: Tolerances) -> list[Check]:
    """Return the checks of `replay_row`s, rate by rate."""
    found = []
    for row in rows:
        drafts = f"K={row['draft_length']}" if row["draft_length"] else "OFF"
        name = f"{row['model']} {drafts} at {row['rate']:g}/s"
        found += run_checks(name, row, row["saturated"], allowed)
    return found
