"""Steps of an engine whose host works ahead: hidden, late and resting hosts, against a hand-made timeline."""

from __future__ import annotations

import pytest

from sdsim.latency.engine_overhead import EngineOverhead, Phases
from sdsim.latency.pipeline import Pipeline
from sdsim.step import StepShape

STEP = StepShape(rows=1, verify_tokens=1, context_tokens=1, attention_pairs=1)


class Made:
    """A latency model whose steps are given: (GPU seconds, launch seconds)."""

    def __init__(self, steps):
        self.engine = EngineOverhead("x", host_step_s=2.0)
        self._steps = iter(steps)

    def host_s(self, rows):
        return self.engine.host_s(rows, None)

    def phases(self, shape):
        gpu, launch = next(self._steps)
        return Phases(gpu, 0.0, 0.0, launch, 0.0, 1)


def durations(steps, rest_before=()):
    pipeline = Pipeline(Made(steps))
    found = []
    for i in range(len(steps)):
        if i in rest_before:
            pipeline.rest()
        found.append(pipeline.seconds(STEP))
    return found


def timeline(steps):
    """Host and GPU as two workers: the host starts a step when the step before last has ended."""
    ends, host, found = [0.0, 0.0], 0.0, []
    for gpu, launch in steps:
        prepared = max(host, ends[-2]) + 2.0
        host = prepared + launch
        ends.append(max(max(prepared, ends[-1]) + gpu, host))
        found.append(ends[-1] - ends[-2])
    return found


def test_a_fast_host_is_hidden_and_a_start_from_rest_is_not():
    assert durations([(10.0, 0.0)] * 3) == [12.0, 10.0, 10.0]
    assert durations([(10.0, 0.0)] * 3, rest_before=(2,)) == [12.0, 10.0, 12.0]


def test_a_slow_launch_shows_by_what_the_step_before_left_of_it():
    assert durations([(10.0, 0.0), (5.0, 30.0), (10.0, 0.0)]) == [12.0, 22.0, 12.0]


def test_tokens_wait_for_the_launch_of_the_step_behind_them():
    """The host hands out a step's tokens when it has launched the next one: 2 s after the step before, plus 30."""
    pipeline = Pipeline(Made([(10.0, 0.0), (5.0, 30.0), (10.0, 0.0)]))
    found = []
    for _ in range(3):
        pipeline.seconds(STEP)
        found.append(pipeline.launched_s)
    # from rest; 30 + 2 of which the step before hid 10; begun at the end of a step that the launch itself set
    assert found == [2.0, 22.0, 2.0]


def test_a_slow_host_sets_the_pace():
    assert durations([(1.0, 5.0)] * 4)[1:] == [7.0, 7.0, 7.0]


@pytest.mark.parametrize("seed", range(20))
def test_against_two_workers(seed):
    import random

    draw = random.Random(seed)
    steps = [(draw.choice([1, 5, 20]), draw.choice([0, 3, 30])) for _ in range(40)]
    assert durations(steps) == pytest.approx(timeline(steps))
