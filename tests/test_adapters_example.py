"""The example of a scheduler that imports a policy: run as it is printed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np

from sdsim.adapters.prices import tabulate

EXAMPLE = """\
from pathlib import Path

from sdsim.adapters.prices import read_price_table
from sdsim.policies import get_policy
from sdsim.policy import Observation, Outcome

policy = get_policy("goodput", {"lengths": [0, 1, 3]}, read_price_table(Path("prices.json")))

def step(number, now, rows, engine):  # rows: numpy arrays, an entry a request
    seen = Observation(number, now, rows.ids, rows.contexts, rows.generated, None, 0, 0, 0, (0, 1, 3), rows.drafts)
    seconds, accepted = engine.run(rows, draft=policy.plan(seen).draft_length)
    policy.learn(Outcome(number, seconds, rows.ids, rows.drafts, accepted, None))
"""


class Cost:
    """A step that grows with its tokens once there are more than 64 of them, and with its draft passes."""

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        return 0.010 + 0.0002 * max(verify_tokens - 64, 0) + 0.001 * draft_length

    def off_seconds(self, rows, context, prefill_tokens=0):
        return 0.010 + 0.0002 * max(rows - 64, 0)


class Engine:
    """Drafts what it is told, and accepts each draft with a chance."""

    def __init__(self, chance):
        self.chance, self.coins, self.lengths = chance, np.random.default_rng(1), []

    def run(self, rows, draft):
        self.lengths.append(draft)
        won = self.coins.random((len(rows.ids), 3)) < self.chance
        return 0.01, np.minimum(np.minimum.accumulate(won, axis=1).sum(axis=1), rows.drafts)


def serve(namespace, engine, batches):
    drafts = 0
    for number, batch in enumerate(batches):
        ids = np.arange(batch)
        rows = SimpleNamespace(
            ids=ids, contexts=np.full(batch, 500), generated=np.full(batch, 9), drafts=np.full(batch, drafts)
        )
        namespace["step"](number, 0.01 * number, rows, engine)
        drafts = engine.lengths[-1]
    return engine.lengths


def test_the_example_plans_by_batch_and_learns_from_what_comes_back(tmp_path, monkeypatch):
    grid = {"rows": [1, 16, 64, 256], "drafts_per_row": [0, 1, 3], "draft_lengths": [0, 1, 3]}
    table = tabulate(Cost(), grid | {"contexts": [0], "prefill_tokens": [0]})
    (tmp_path / "prices.json").write_text(json.dumps(table.content()))
    monkeypatch.chdir(tmp_path)
    lengths = {}
    for chance in (0.9, 0.02):
        namespace = {}
        exec(EXAMPLE, namespace)
        lengths[chance] = serve(namespace, Engine(chance), [8] * 200 + [256] * 10 + [8] * 10)
    assert (lengths[0.9][199], lengths[0.9][209], lengths[0.9][-1]) == (3, 0, 3)
    assert lengths[0.02][0] == 3
    assert lengths[0.02][199] == 0


def test_the_example_is_twelve_lines():
    assert len(EXAMPLE.splitlines()) == 12
