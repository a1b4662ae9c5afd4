"""A little engine for policies: rows that draft, verify what the step before drafted, and report late or at once."""

from __future__ import annotations

from collections import deque

import numpy as np

from sdsim.policy import Observation, Outcome


class Linear:
    """Prices that rise with tokens, drafts and stored context, so that the best length depends on all three."""

    def __init__(self, fixed=0.01, token=1e-4, draft=5e-4, stored=0.0):
        self.fixed, self.token, self.draft, self.stored = fixed, token, draft, stored

    def step_seconds(self, rows, draft_length, context, prefill_tokens=0):
        tokens = rows * (draft_length + 1) + prefill_tokens
        warm = 1e-4 + 1e-6 * prefill_tokens
        return self.fixed + self.token * tokens + self.draft * draft_length + self.stored * rows * context + warm

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        return self.step_seconds(rows, verify_tokens / rows - 1, context, prefill_tokens)

    def off_seconds(self, rows, context, prefill_tokens=0):
        return self.fixed + self.token * (rows + prefill_tokens) + self.stored * rows * context


def seen(rows, step=0, now=0.0, pending=0, context=100, **more):
    """Return an observation of *rows* equal rows; *more* are its other fields."""
    full = np.full(rows, 1, dtype=np.int64)
    fields = {
        "slo_slack": None, "prefill_tokens": 0, "waiting": 0, "kv_free": 1000, "draft_lengths": tuple(range(9)),
        "request_ids": np.arange(rows), "context_lengths": context * full, "generated": full,
        "pending": pending * full,
    } | more  # fmt: skip
    return Observation(step=step, now=now, **fields)


def outcome(step, accepted, verified, seconds=0.02):
    """Return the outcome of a step with one row for each entry of *accepted*."""
    accepted = np.asarray(accepted, dtype=np.int64)
    return Outcome(step, seconds, np.arange(len(accepted)), np.broadcast_to(verified, accepted.shape), accepted, None)


def run(policy, steps, seconds, accepted, rows=16, lag=0, prompts=lambda step: 0):
    """Drive *policy*; return the draft lengths that it planned and the outcomes.

    A step takes seconds(K), K being the drafts verified; each row accepts accepted(K, step) of them.
    """
    lengths, outcomes, waiting, pending = [], [], deque(), 0
    now = 0.0
    for step in range(steps):
        plan = policy.plan(seen(rows, step, now, pending, prefill_tokens=prompts(step)))
        took = seconds(pending)
        done = outcome(step, np.broadcast_to(accepted(pending, step), rows), pending, took)
        now += took
        waiting.append(done)
        outcomes.append(done)
        while len(waiting) > lag:
            policy.learn(waiting.popleft())
        lengths.append(plan.draft_length)
        pending = plan.draft_length
    return lengths, outcomes
