"""Limits in seconds hold on a machine that others use too, and still refuse what is too slow by itself."""

from __future__ import annotations

import pytest

import tests.machine as machine


@pytest.fixture
def load(monkeypatch):
    """How much slower than idle the machine is at each of its measurements, the last one for good."""
    factors = [1.0]

    def slowed(work, repeats=0):
        factor = factors[0] if len(factors) == 1 else factors.pop(0)
        return factor * 20e-6

    monkeypatch.setattr(machine, "best_seconds", slowed)
    monkeypatch.setattr(machine, "PAUSE_S", 0.0)
    return factors


@pytest.mark.parametrize("factor", [1.0, 1.7, 30.0])
def test_what_is_within_its_budget_passes_however_slow_the_machine(load, factor):
    load[:] = [factor]
    machine.assert_in_budget(lambda: factor * 55e-6)


@pytest.mark.parametrize("factor", [1.0, 1.7, 30.0])
def test_what_is_over_it_fails_however_slow_the_machine(load, factor):
    load[:] = [factor]
    with pytest.raises(AssertionError, match=r"a plan takes [\d.]+ us; allowed: "):
        machine.assert_in_budget(lambda: factor * 65e-6)


def test_a_moment_in_which_only_the_plan_was_slowed_is_measured_again(load):
    times = iter([80e-6, 80e-6, 55e-6])
    machine.assert_in_budget(lambda: next(times))
