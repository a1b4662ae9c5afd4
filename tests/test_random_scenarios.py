"""A thousand random scenarios: the engine and the naive simulator agree on each, and every rule is met."""

from __future__ import annotations

from collections import Counter

import pytest

from sdsim.scenario import scenario_from_mapping
from tests.both_simulators import agree
from tests.naive import Record
from tests.random_scenarios import random_case

RULES = frozenset(
    {
        "2 chosen from what came late", "2 comes before the next choice", "2 handed out late",
        "2 queued after the choice", "3.1 row evicts itself",
        "3.1 row evicts the newest", "3.1 row takes blocks", "3.2 row sits out", "3.3 half-way request evicted",
        "3.3 half-way request goes on", "3.3 no budget for the half-way request", "3.4 evicts", "3.5 admits",
        "3.5 admits again", "3.5 admits in part", "3.5 blocks lack", "3.5 blocks lack for the whole alone",
        "3.5 eviction bars admission", "3.5 rows are full", "4 admission undone", "4 drafter dropped",
        "4 drafter loaded again", "4 half-way request cut to none", "4 pool overdrawn", "4 prompts cut",
        "4 verifies fewer", "6 accepts all",
        "6 accepts beyond the end", "6 no draft found", "6 rejects", "7.3 finishes at its prompt's end",
        "7.3 prompt ends", "7.3 prompt ends again",
    }
)  # fmt: skip


def compared(number: int) -> Record | None:
    """Compare both simulators on one scenario; every other time with policies whose calls a scheduler may spare."""
    mapping, pools = random_case(number)
    record = agree(scenario_from_mapping(mapping), pools, ties=False, bare=number % 2 == 1)
    return None if record is None or record.tied else record


@pytest.mark.parametrize("number", range(24))
def test_a_few(number):
    compared(number)


@pytest.mark.slow  # a hundred thousand steps, counted token by token: 90 s of a core
def test_a_thousand():
    """Scenarios that cannot run, or whose events are as near as rounding errors, are not counted."""
    agreed, met, number = 0, Counter[str](), 0
    while agreed < 1000:
        record = compared(number)
        number += 1
        if record is not None:
            agreed += 1
            met.update(rule for rule, times in record.rules.items() if times)
    assert number <= 1050
    assert met.keys() == RULES
