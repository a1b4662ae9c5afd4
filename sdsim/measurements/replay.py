"""Requests replayed open-loop through an engine: one record a request, any number of rates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from sdsim.measurements.record import Record, WholeOrZero
from sdsim.metrics import Columns
from sdsim.policy import FloatArray
from sdsim.scenario.fields import Count, NonNegativeNumber, PositiveNumber

MAX_NUM_SEQS = 256
GROWTH, FEWEST = 3.0, 8


class RequestRecord(Record):
    """One request; times in s from the start of its rate."""

    rate: PositiveNumber
    """Mean arrivals, 1/s."""
    number: WholeOrZero = Field(alias="i")
    arrival: NonNegativeNumber
    prompt: Count
    output: Count
    first: NonNegativeNumber
    """When the first token was there."""
    finish: NonNegativeNumber
    got: Count
    """Tokens that the engine returned."""

    @model_validator(mode="after")
    def _in_order(self) -> RequestRecord:
        if not self.arrival <= self.first <= self.finish:
            found = f"arrival {self.arrival:g}, first {self.first:g}, finish {self.finish:g}"
            raise ValueError(f"{found}; allowed: times in this order, s; measure again")
        return self


@dataclass(frozen=True)
class Replay:
    """One rate of one engine process."""

    record: RequestRecord
    """Its first request, for what all of them share."""
    requests: Columns
    """arrival_s, first_token_s, finish_s, prompt_tokens, output_tokens (asked for) and got_tokens, by arrival."""

    def __len__(self) -> int:
        return len(self.requests["arrival_s"])

    @property
    def max_num_seqs(self) -> int:
        """The batch limit that the engine ran with."""
        return self.record.max_num_seqs or MAX_NUM_SEQS

    @property
    def saturated(self) -> bool:
        """Whether the queue grew while requests arrived."""
        return queue_grew(self.requests)


def queue_grew(requests: Columns) -> bool:
    """Return whether requests waited longer and longer.

    The last quarter's median TTFT is then several times the first half's: a backlog that grows in proportion to time
    gives 3.5, a batch that fills up from an empty engine less than 2.
    """
    order = np.argsort(requests["arrival_s"], kind="stable")
    ttft = (requests["first_token_s"] - requests["arrival_s"])[order]
    ttft = np.nan_to_num(ttft, nan=np.inf)
    first, last = ttft[: len(ttft) // 2], ttft[-(len(ttft) // 4) :]
    return len(ttft) >= FEWEST and bool(np.median(last) > GROWTH * np.median(first))


def grouped(records: list[RequestRecord]) -> list[Replay]:
    """Return the replays that *records* belong to, in order of appearance."""
    groups: dict[object, list[RequestRecord]] = {}
    for r in records:
        groups.setdefault((r.model, r.draft, r.draft_length, r.alpha, r.engine, r.gpu, r.rate), []).append(r)
    return [_replay(sorted(group, key=lambda r: (r.arrival, r.number))) for group in groups.values()]


def _replay(group: list[RequestRecord]) -> Replay:
    def column(name: str) -> FloatArray:
        return np.array([getattr(r, name) for r in group], dtype=np.float64)

    columns = {
        "arrival_s": column("arrival"),
        "first_token_s": column("first"),
        "finish_s": column("finish"),
        "prompt_tokens": column("prompt"),
        "output_tokens": column("output"),
        "got_tokens": column("got"),
    }
    return Replay(group[0], columns)
