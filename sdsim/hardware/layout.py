"""What of a step is fixed in a captured graph, and what is filled in before each replay."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels.verify_attention import PAGE
from sdsim.policy import IntArray
from sdsim.step import StepShape


class Layout(NamedTuple):
    """The sizes that a graph is captured for. Rows stand in order of their verify lengths, then the chunks."""

    groups: tuple[tuple[int, int], ...]
    """(decode rows, new tokens of each)."""
    chunks: tuple[tuple[int, int], ...]
    """(tokens stored, new tokens) of each prompt chunk."""
    first_tokens: int
    """Chunks, the first ones, that end their prompt."""
    bound: int
    """No decode row holds more tokens after the step; how attention splits its KV depends on it."""

    @property
    def rows(self) -> int:
        """Decode rows."""
        return sum(rows for rows, _ in self.groups)

    @property
    def verify_tokens(self) -> int:
        """New tokens of the decode rows."""
        return sum(rows * width for rows, width in self.groups)

    @property
    def tokens(self) -> int:
        """New tokens of all rows."""
        return self.verify_tokens + sum(chunk for _, chunk in self.chunks)

    @property
    def ends(self) -> list[int]:
        """Where, among the step's tokens, the prompts that end have their last."""
        sizes = np.cumsum([chunk for _, chunk in self.chunks], dtype=np.int64)[: self.first_tokens]
        return [self.verify_tokens + int(size) - 1 for size in sizes]

    @property
    def lasts(self) -> list[int]:
        """Where each row that drafts has its last token."""
        found: list[int] = []
        start = 0
        for rows, width in self.groups:
            found += range(start + width - 1, start + rows * width, width)
            start += rows * width
        return found + self.ends


class Arranged(NamedTuple):
    """A step's layout, and (rows + chunks,) what is filled in."""

    layout: Layout
    lengths: IntArray
    """Tokens that each row holds after the target's pass."""
    stored: IntArray
    """Of these, how many stay if no draft is accepted: where drafting goes on."""
    pages: IntArray
    """KV pages that each row needs."""


def bound(length: int) -> int:
    """Return *length* rounded up to three binary digits, so that a growing context meets few graphs."""
    unit = 1 << max(0, length.bit_length() - 3)
    return -(-length // unit) * unit


def arrange(shape: StepShape) -> Arranged:
    """Return how the executor lays *shape* out. Its `contexts` must be given."""
    if shape.contexts is None:
        raise ValueError("the step has no contexts: an executor needs them row by row")
    verified = np.broadcast_to(np.asarray(shape.verify_lengths, dtype=np.int64), (shape.rows,))
    order = np.argsort(verified, kind="stable")
    widths, counts = np.unique(verified + 1, return_counts=True)
    contexts = shape.contexts[order]
    _, stored, chunks = np.array(shape.chunks, dtype=np.int64).reshape(-1, 3).T
    ends = stored + chunks
    lengths = np.concatenate([contexts + 1 + verified[order], ends])
    kept = np.concatenate([contexts + 1, ends])
    layout = Layout(
        tuple(zip(counts.tolist(), widths.tolist(), strict=True)),
        tuple(zip(stored.tolist(), chunks.tolist(), strict=True)),
        shape.first_tokens,
        bound(int(lengths[: shape.rows].max(initial=0))),
    )
    return Arranged(layout, lengths, kept, -(-np.maximum(lengths, kept + shape.draft_length) // PAGE))
