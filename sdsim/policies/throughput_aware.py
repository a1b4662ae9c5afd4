"""SGLang's `throughput_aware` strategy (PR 28045, open): the positive length with the most tokens per step time.

score(K) = (1 + acc(K)) / c(n, K): acc(K) sums the mean acceptance of each position over the last `window_size`
batches, shared by all batch sizes; c is the table of decode times profiled at start-up with contexts of
`profile_run_seq_len` tokens. Every `update_interval` batches, once the windows of the current length are full, the
best candidate of the batch's slot replaces the current length if its score is higher by the share
`switch_hysteresis`. A current length that is no candidate of the slot gives way to the best at once. A shorter length
empties the windows beyond it. At length 1 a single position is known and its rate is repeated for those beyond, which
overrates long drafts: the rule then tries them, learns better, forgets it with the shorter length, and swings. Length
0 is no candidate, as in the PR: this rule never stops speculating. Here c is priced for the exact batch size, the PR
profiles the captured sizes and takes the next larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdsim.policies.ledger import Newest
from sdsim.policies.lengths import count, positive, share
from sdsim.policies.plans import uniform_plans
from sdsim.policies.position_windows import PositionWindows
from sdsim.policies.priced import Priced, price_lengths
from sdsim.policies.sglang_slots import Slots, slot_settings
from sdsim.policy import Observation, Outcome, Plan, StepCosts

CONFIG = {"1": {"candidate_steps": [1, 3, 5, 7]}}
"""The PR's default."""


class ThroughputAware:
    """Draft the length of the highest score."""

    lossless_at_temperature = True

    def __init__(
        self,
        cost: StepCosts,
        config: Mapping[str, Any] = CONFIG,
        window_size: int = 20,
        update_interval: int = 5,
        switch_hysteresis: float = 0.1,
        profile_run_seq_len: int = 128,
    ) -> None:
        self._slots = Slots({b: settings["candidate_steps"] for b, settings in slot_settings(config, {}).items()})
        self.lengths = tuple(sorted({0}.union(*self._slots.all)))
        if any(0 in candidates for candidates in self._slots.all):
            raise ValueError("candidate_steps with 0; allowed: positive draft lengths")
        self.label = "throughput-aware"
        self._interval = count("update_interval", update_interval, 1)
        self._leap = 1 + share("switch_hysteresis", switch_hysteresis)
        self._windows = PositionWindows(self.lengths[-1], count("window_size", window_size, 1))
        self._seconds = Priced(price_lengths(cost, self.lengths), positive("profile_run_seq_len", profile_run_seq_len))
        self._plans = dict(zip(self.lengths, uniform_plans(self.lengths), strict=True))
        first: Sequence[int] = self._slots.of(0)
        self._current, self._batches = first[len(first) // 2], 0
        self._newest = Newest()

    def plan(self, observation: Observation, /) -> Plan:
        """Return the current length, after a due re-evaluation."""
        if not len(observation.request_ids):
            return self._plans[self._current]
        candidates = self._slots.of(len(observation.request_ids))
        if self._current not in candidates:
            self._switch(self._best(observation, candidates, fallback=candidates[len(candidates) // 2]))
        if self._batches >= self._interval:
            self._batches = 0
            if self._windows.full(self._current):
                best = self._best(observation, candidates, fallback=self._current)
                if self._score(observation, best) > self._leap * self._score(observation, self._current):
                    self._switch(best)
        return self._plans[self._current]

    def _score(self, observation: Observation, length: int) -> float:
        """Return the expected tokens of a row per second, 0 if nothing is known."""
        return (self._windows.tokens(length) or 0.0) / self._seconds.of(observation)[self.lengths.index(length)]

    def _best(self, observation: Observation, candidates: Sequence[int], fallback: int) -> int:
        scores = [self._score(observation, length) for length in candidates]
        highest = max(scores)
        return candidates[scores.index(highest)] if highest else fallback

    def _switch(self, length: int) -> None:
        if length < self._current:
            self._windows.forget_beyond(length)
        self._current = length

    def learn(self, outcome: Outcome, /) -> None:
        """Take in the acceptances, at most as deep as the current length, and count the batch."""
        verified = int(outcome.verified.max(initial=0))
        if not verified or not self._newest.passes(outcome):
            return
        self._windows.update(outcome.accepted, min(verified, self._current))
        self._batches += 1
