"""Whether the drafter is worth its place: loaded, it costs each step a pass even when it drafts nothing.

A step with the drafter that takes T(c) beside c prompt tokens and emits t tokens a row spares the t - 1 steps in which
decoding alone would emit the rest: it loses T(c) - off(c) - (t - 1) off(0) seconds, or gains them. An account adds up
what the present state has lost against the other, never below 0. At `EVIDENCE` times the price of loading the drafter
again, for the rows and for those that wait, it is dropped, and at that price loaded: so no more is lost than a few
times what hindsight would lose (ski rental: Karlin et al. 1988).

Where requests wait for KV blocks, the drafter's memory would hold `ROOM` - 1 rows more for each row: decoding alone
would be faster by the ratio of its tokens a second with and without them, and its times count that much less. Drafts
are then made for many rows, which soon show what they are worth: `PRESSED` reloads' worth is evidence enough.

Loading again is a pass over all that the rows have stored. While the room that the drafter gave back is in use, its
return would evict requests, and counts `EVICTIONS` times. For at most the share `EXPLORED` of the time spent without, a
drafter that is thought to lose is loaded on trial, to draft `TRIAL` tokens that it can be judged by.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sdsim.policies.priced import CATCH_UP_CHUNK, Priced, catch_up_seconds
from sdsim.policies.step_rule import Choice
from sdsim.policy import Observation, StepCosts

EVIDENCE = 2.0
"""Reloads' worth of time lost at which a loaded drafter is dropped: it then tells no more what it would be worth."""
PRESSED = 0.5
"""The same where requests wait for KV blocks: each step that the drafter stays keeps some of them waiting."""
ROOM = 1.1
"""Rows that fit without a drafter for each that fits with it: a small drafter has a tenth of the KV."""
BLOCK = 16
"""Tokens of a KV block, as engines have it."""
EVICTIONS = 10.0
"""How many times the price is where the drafter's return evicts requests: a tenth of the rows are computed again."""
EXPLORED = 0.002
TRIAL = 64


class _Prices(NamedTuple):
    warm: float
    """What a loaded drafter adds to a step that drafts nothing, s."""
    prompt: float
    """What it adds for each prompt token of the step, s."""
    reload: float
    """Loading it again, s."""
    trial: float
    """What a step on trial adds, s, if no draft is accepted."""
    relief: float
    """By how much decoding alone is faster with the rows that the drafter's memory would hold."""


class Residency:
    """Keeps the account of a drafter that is loaded at first, and drafts *shortest* tokens at least on trial."""

    def __init__(self, cost: StepCosts, shortest: int) -> None:
        self.loaded = True
        self.on_trial = 0
        """Drafts still to be made on trial."""
        self._cost, self._shortest, self._account, self._explored = cost, shortest, 0.0, 0.0
        self._prices = Priced(self._price)
        self._before: int | None = None
        self._room = 0

    def _price(self, rows: int, context: float) -> _Prices:
        cost, chunk = self._cost, CATCH_UP_CHUNK
        warm = cost.step_seconds(rows, 0, context) - cost.off_seconds(rows, context)
        more = cost.step_seconds(rows, 0, context, chunk) - cost.off_seconds(rows, context, chunk)
        trial = cost.step_seconds(rows, self._shortest, context) - cost.off_seconds(rows, context)
        wider = math.ceil(ROOM * rows)
        relief = wider / rows * cost.off_seconds(rows, context) / cost.off_seconds(wider, context)
        prompt = max(more - warm, 0.0) / chunk
        return _Prices(warm, prompt, catch_up_seconds(cost, rows, context), max(trial, 0.0), max(relief, 1.0))

    def see(self, observation: Observation, choice: Choice) -> None:
        """Take in a step with rows that goes as *choice*, or would if the drafter were loaded; change the state."""
        rows, prices = len(observation.request_ids), self._prices.of(observation)
        carried = observation.prefill_tokens if choice.chunk is None else choice.chunk
        added = prices.warm + prices.prompt * carried
        alone = choice.alone - prices.warm
        if self.loaded:
            spared, pressed = choice.tokens / rows * alone, _pressed(observation)
            relief = prices.relief if pressed else 1.0
            lost = choice.seconds - choice.plain + added + alone - spared / relief
            self.on_trial = max(self.on_trial - int(observation.pending.sum()), 0) if self.on_trial else 0
            self._account = max(self._account + lost, 0.0)
            reload = prices.reload * (rows + observation.waiting) / rows
            if self._account > (PRESSED if pressed else EVIDENCE) * reload and not self.on_trial:
                self._change(observation, False)
            return
        if self._before is not None:
            self._room, self._before = max(observation.kv_free - self._before, self._room), None
        lost = (choice.drafted - choice.plain + added) / choice.promised - (1.0 - 1.0 / choice.promised) * alone
        self._account = max(self._account - lost, 0.0)
        self._explored += EXPLORED * (choice.plain - added)
        trial = 2.0 * prices.reload + prices.trial * math.ceil(TRIAL / rows)
        roomy = observation.kv_free >= self._room and not observation.waiting
        if lost < 0.0 and self._account > prices.reload * (1.0 if roomy else EVICTIONS):
            self._change(observation, True)
        elif roomy and self._explored >= trial:
            self._explored -= trial
            self.on_trial = TRIAL
            self._change(observation, True)

    def _change(self, observation: Observation, loaded: bool) -> None:
        self.loaded, self._account = loaded, 0.0
        self._before = None if loaded else observation.kv_free


def _pressed(observation: Observation) -> bool:
    """Return whether requests wait, and the free blocks hold no row as long as those at hand."""
    free = observation.kv_free * BLOCK * len(observation.request_ids)
    return bool(observation.waiting and free < observation.stored_tokens)
