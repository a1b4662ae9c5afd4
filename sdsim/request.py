"""One request on its way through a replica."""

from __future__ import annotations

from typing import Any

import numpy as np


class Request:
    """What the scheduler knows of a request that waits, prefills or decodes."""

    __slots__ = (
        "arrival_s",
        "blocks",
        "computed",
        "depths",
        "drafted",
        "first_token_s",
        "generated",
        "id",
        "output",
        "preemptions",
        "prompt",
        "request_class",
        "verify_steps",
    )

    def __init__(self, request_id: int, arrival_s: float, prompt: int, output: int, request_class: int = 0) -> None:
        self.id = request_id
        self.arrival_s = arrival_s
        self.prompt = prompt
        self.output = output
        self.request_class = request_class
        self.generated = 0
        self.computed = 0
        """KV tokens stored while it prefills."""
        self.blocks = 0
        self.first_token_s = np.nan
        self.preemptions = 0
        self.verify_steps = 0
        """Decode steps it took part in."""
        self.depths: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        """(planes, output + MAX_DRAFT_LENGTH) drafts that a chain from each position would have accepted."""
        self.drafted: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        """(output,) whether the drafter has a draft at each position; None: always."""

    @property
    def to_prefill(self) -> int:
        """Tokens whose KV a prefill has to compute: the prompt, and after a preemption what was emitted too."""
        return self.prompt + self.generated

    @property
    def remaining(self) -> int:
        """Output tokens still to come."""
        return self.output - self.generated
