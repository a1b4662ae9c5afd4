"""Cascade (arXiv 2506.20675): test draft lengths in turn, then keep the one of the highest utility for a while.

U(K) = ETR / (t_spec / t_base): tokens per verify step over the slow-down of a step. t_base is the mean time of steps
with K = 0, measured first and again after `refresh` steps. A test makes at most `trials` trials of `trial` steps:
from the last best K > 0 up if its utility is at least 1, else down; on while the utility rises, to the other side of
the best when it falls; it ends when the utility changes by less than `tolerance`, when a maximum is passed, or at an
end. The best is kept for `hold` steps, or K = 0 if its utility is below 1; each K = 0 in a row doubles that time.

The paper decodes one request. Here the utility is the *batch's*: measured step times, tokens per row. Readings taken:
trials leave out steps that carry prompts; a trial that gets no clean step within `PATIENCE` times its length ends the
test, which then keeps the last best K > 0; the doubling ends at `longest_hold`, and with K > 0. The drafter stays
warm at K = 0, as in the paper.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from sdsim.policies.ledger import Ledger
from sdsim.policies.lengths import count, draft_lengths, share
from sdsim.policies.plans import uniform_plans
from sdsim.policies.trial import Trial
from sdsim.policy import Observation, Outcome, Plan

PATIENCE = 4
"""A trial ends without a result after so many times its steps."""


Steps = Generator[Trial, None, None]


class Cascade:
    """Follow the test and set phases."""

    lossless_at_temperature = True

    def __init__(
        self,
        lengths: Sequence[int] = (0, 1, 2, 3, 4),
        trial: int = 4,
        trials: int = 4,
        hold: int = 16,
        longest_hold: int = 1024,
        refresh: int = 100,
        tolerance: float = 0.1,
    ) -> None:
        self.lengths = draft_lengths(lengths)
        self.label = "cascade"
        self._trial, self._trials = count("trial", trial, 1), count("trials", trials, 1)
        self._hold, self._longest_hold = count("hold", hold, 1), count("longest_hold", longest_hold, 1)
        self._refresh, self._tolerance = count("refresh", refresh, 1), share("tolerance", tolerance)
        self._plans = uniform_plans(self.lengths)
        self._ledger: Ledger[Trial] = Ledger()
        self._step, self._base, self._base_step = 0, 0.0, -self._refresh
        self._best = len(self.lengths) - 1
        self._phases = self._run()
        self._now = next(self._phases)

    def plan(self, observation: Observation, /) -> Plan:
        """Return the length of the current trial, or of the set phase."""
        if not len(observation.request_ids):
            return self._plans[self._best]
        if self._now.over:
            self._now = next(self._phases)
        self._now.planned += 1
        self._step += 1
        if not observation.prefill_tokens:
            self._ledger.note(observation.step, self._now)
        return self._plans[self._now.arm]

    def learn(self, outcome: Outcome, /) -> None:
        """Give the outcome to the trial that its step belonged to, if the step verified that trial's length."""
        trial = self._ledger.take(outcome.step)
        if trial is not None and int(outcome.verified.max(initial=0)) == self.lengths[trial.arm]:
            trial.see(outcome)

    def _run(self) -> Steps:
        """Yield the trials and the set phases, for ever."""
        hold = self._hold
        while True:
            if self._step - self._base_step >= self._refresh:
                yield from self._measure_base(Trial(0, self._trial, PATIENCE * self._trial))
            arm = (yield from self._test()) if self._base else self._best
            kept = Trial(arm, hold + 1, hold)
            hold = self._hold if arm else min(2 * hold, self._longest_hold)
            self._best = arm or self._best
            yield from (self._measure_base(kept) if not arm else [kept])

    def _measure_base(self, trial: Trial) -> Steps:
        yield trial
        self._base_step = self._step
        if trial.steps:
            self._base = trial.seconds / trial.steps

    def _test(self) -> Generator[Trial, None, int]:
        """Climb from the best length so far; return the index of the length to keep."""
        utilities: dict[int, float] = {}
        arm, origin, direction = self._best, self._best, 0
        while len(utilities) < self._trials:
            trial = Trial(arm, self._trial, PATIENCE * self._trial)
            yield trial
            if not trial.steps:
                return self._best
            utilities[arm] = (trial.tokens / trial.rows) / (trial.seconds / trial.steps / self._base)
            gain = utilities[arm] - utilities[origin]
            if not direction:
                direction = 1 if utilities[arm] >= 1 and arm + 1 < len(self.lengths) else -1
            elif abs(gain) < self._tolerance * utilities[origin]:
                break
            elif gain < 0:
                direction = -direction
            origin = max(utilities, key=utilities.__getitem__)
            arm = origin + direction
            if arm in utilities or not 0 < arm < len(self.lengths):
                break
        return origin if utilities[origin] >= 1 else 0
