"""One request: its life on its replica, from arrival to the last token, with every step that it took part in."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from sdsim.acceptance import Acceptance, make_acceptance
from sdsim.errors import ScenarioError
from sdsim.explanation.record import Facts, check_same, differs, recorded, request_row
from sdsim.metrics import Columns, latencies
from sdsim.policy import IntArray
from sdsim.replay import Step, replay
from sdsim.result import Result
from sdsim.streams import Depths


class Turn(NamedTuple):
    """A decode step of one request."""

    step: int
    start_s: float
    seconds: float
    batch: int
    verified: int
    """Drafts verified."""
    accepted: int
    emitted: int
    prompt_tokens: int
    """Prompt tokens of other requests in the same step."""


@dataclass(frozen=True, slots=True)
class Life:
    """One request explained; each part is ready for JSON. Times in s."""

    request: int
    policy: str
    request_class: str
    replica: int
    prompt_tokens: int
    output_tokens: int
    times: Facts
    events: list[Facts]
    drafts: Facts
    turns: list[Turn]

    def json(self) -> Facts:
        """Return all of it; a turn is an object."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"turns": [t._asdict() for t in self.turns]}


def explain_request(result: Result, request: int) -> Life:
    """Run *result* again until *request* is done, and tell its life. Raises ScenarioError if it never arrived."""
    row = {name: float(values[request_row(result, request)]) for name, values in result.requests.items()}
    follower = _Follower(result, row)
    replay(result, follower.visit)
    follower.check()
    one = {name: np.array([value]) for name, value in row.items()}
    return Life(
        request=request,
        policy=result.policy,
        request_class=result.class_names[int(row["request_class"])],
        replica=int(row["replica"]),
        prompt_tokens=int(row["prompt_tokens"]),
        output_tokens=int(row["output_tokens"]),
        times=_times(one, follower.admitted_s),
        events=follower.told(),
        drafts=_drafts(follower.turns),
        turns=follower.turns,
    )


@dataclass(slots=True)
class _Follower:
    """Follows one request through the steps of its replica; *row* is its record."""

    result: Result
    row: dict[str, float]
    events: list[Facts] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    admitted_s: float | None = None
    _gone: tuple[int, float] | None = None
    """The first step without it since it was last seen, and when that was."""
    _rows: dict[int, int] = field(init=False)
    _depths: Depths | None = field(init=False)

    def __post_init__(self) -> None:
        steps = self.result.steps
        mine = np.flatnonzero(steps["replica"] == self.row["replica"])
        self._rows = dict(zip(steps["step"][mine].astype(int).tolist(), mine.tolist(), strict=True))
        self._depths = _depths(self.result, self.row)

    def visit(self, seen: Step) -> bool:
        """Take in a step; return whether the request was done before it."""
        if seen.replica != self.row["replica"]:
            return False
        if seen.observation.now >= self.row["finish_s"]:
            return True
        row = self._rows.get(seen.observation.step)
        if row is None or not recorded(self.result.steps, row, seen):  # under way when the clock or the replica stopped
            return False
        chunk = next((c for c in seen.shape.chunks if c[0] == self.row["request_id"]), None)
        place = np.flatnonzero(seen.observation.request_ids == self.row["request_id"])
        if chunk is not None:
            self._prefilled(seen, chunk)
        elif len(place):
            self._decoded(seen, int(place[0]))
        elif self.admitted_s is not None:
            self._gone = self._gone or (seen.observation.step, seen.observation.now)
            return False
        else:
            return False
        check_same(self.result.steps, row, seen)
        self._gone = None
        return False

    def _prefilled(self, seen: Step, chunk: IntArray | tuple[int, int, int]) -> None:
        _, stored, tokens = map(int, chunk)
        step, now = seen.observation.step, seen.observation.now
        if stored == 0:
            if self.admitted_s is not None:
                self._tell("preempted", *(self._gone or (step, now)))
            self.admitted_s = now if self.admitted_s is None else self.admitted_s
            self._tell("admitted", step, now)
        self._tell("prefill", step, now, seconds=seen.seconds, tokens=tokens, stored=stored)

    def _decoded(self, seen: Step, place: int) -> None:
        observation, plan = seen.observation, seen.plan
        pending, generated = (int(a[place]) for a in (observation.pending, observation.generated))
        verified = pending if plan.verify_lengths is None else int(plan.verify_lengths[place])
        accepted = self._accepted(generated, pending, verified)
        emitted = min(accepted + 1, int(self.row["output_tokens"]) - generated)
        figures = (observation.batch, verified, accepted, emitted, seen.shape.prefill_tokens)
        self.turns.append(Turn(observation.step, observation.now, seen.seconds, *figures))

    def _accepted(self, generated: int, pending: int, verified: int) -> int:
        if self._depths is None or not verified:
            return 0
        plane = pending - 1 if len(self._depths) > 1 else 0
        return min(verified, int(self._depths[plane, generated]))

    def _tell(self, event: str, step: int | None, at_s: float, **more: Any) -> None:
        self.events.append({"event": event, "at_s": at_s, "step": step, **more})

    def told(self) -> list[Facts]:
        """Return the events in order of time, with those that its record tells."""
        known = {"arrived": "arrival_s", "first token": "first_token_s", "finished": "finish_s"}
        times = {event: self.row[column] for event, column in known.items() if np.isfinite(self.row[column])}
        recorded = [{"event": event, "at_s": at_s, "step": None} for event, at_s in times.items()]
        order = ("arrived", "first token", "finished", "preempted", "admitted", "prefill")
        return sorted([*recorded, *self.events], key=lambda e: (e["at_s"], order.index(e["event"])))

    def check(self) -> None:
        """Raise ScenarioError unless the request's turns and preemptions are those recorded."""
        evictions = sum(event["event"] == "preempted" for event in self.events)
        if self._gone is not None and evictions < self.row["preemptions"]:
            self._tell("preempted", *self._gone)
            evictions += 1
        finished = np.isfinite(self.row["finish_s"])
        found = (len(self.turns), evictions) if finished else (len(self.turns),)
        if found == tuple(int(self.row[c]) for c in ("verify_steps", "preemptions")[: len(found)]):
            return
        request, scenario = f"request {self.row['request_id']:.0f}", self.result.scenario
        if scenario.failures or any(pool.role == "prefill" for pool in scenario.pools):
            problem = "it was on more than one replica, and is followed on its last only"
            raise ScenarioError(f"{request}: {problem}; allowed: requests that stayed on one; choose another")
        raise differs(request)


def _depths(result: Result, row: dict[str, float]) -> Depths | None:
    """Return how far a chain from each position of the request would be accepted; None if nothing drafts."""
    spec = result.scenario.acceptance
    if spec is None:
        return None
    law: Acceptance = make_acceptance(spec, result.scenario.seed, result.class_names)
    ids, tokens, classes = (np.array([int(row[c])]) for c in ("request_id", "output_tokens", "request_class"))
    return law.depths(ids, tokens, classes)[0]


def _times(one: Columns, admitted_s: float | None) -> Facts:
    ttft, tpot, e2e = (float(values[0]) for values in latencies(one))
    arrival, first, finish = (float(one[c][0]) for c in ("arrival_s", "first_token_s", "finish_s"))
    waited = np.nan if admitted_s is None else admitted_s - arrival
    found = {"waiting_s": waited, "prefill_s": ttft - waited, "decoding_s": finish - first}
    found |= {"ttft_s": ttft, "tpot_s": tpot, "e2e_s": e2e}
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def _drafts(turns: list[Turn]) -> Facts:
    verified, accepted = sum(t.verified for t in turns), sum(t.accepted for t in turns)
    emitted = sum(t.emitted for t in turns)
    return {
        "steps": len(turns),
        "verified": verified,
        "won": accepted,
        "lost": verified - accepted,
        "acceptance_rate": accepted / verified if verified else None,
        "tokens_per_step": emitted / len(turns) if turns else None,
        "steps_with_prompts": sum(t.prompt_tokens > 0 for t in turns),
    }
