"""The parts of a step as calls on fixed buffers: target, rejection, draft. Each can be captured and replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels import rejection
from kernels._triton import cdiv
from kernels.draft import ALL
from kernels.layer import Rows
from kernels.verify_attention import PAGE
from sdsim.errors import CapacityError
from sdsim.hardware.graphs import Call
from sdsim.hardware.layout import Arranged, Layout, bound
from sdsim.hardware.model import Pair, Sizes
from sdsim.policy import IntArray


class Inputs:
    """Buffers that graphs read: block tables and lengths, filled before each step; tokens, drafts and coins at random.

    Pages are dealt out anew each step, in an order as scattered as an allocator's after a while: what they hold does
    not matter, only how much is read and from where.
    """

    def __init__(self, pair: Pair, sizes: Sizes, seed: int) -> None:
        device, generator = pair.device, torch.Generator(device=pair.device).manual_seed(seed)
        self.sizes, self.device = sizes, device
        ints: dict[str, Any] = {"dtype": torch.int32, "device": device}
        width = 4 * cdiv(sizes.positions, 4 * PAGE)  # rows of 16 bytes: Triton compiles unaligned ones anew
        self.table = torch.zeros((sizes.rows, width), **ints)
        self.lengths, self.stored = torch.zeros(sizes.rows, **ints), torch.zeros(sizes.rows, **ints)
        self.tokens = torch.randint(pair.vocabulary, (sizes.tokens,), generator=generator, **ints)
        verified = min(sizes.tokens, sizes.rows * (1 + sizes.draft_length))
        self.drafts = torch.randint(pair.vocabulary, (verified,), generator=generator, **ints)
        self.coins = torch.rand((verified,), generator=generator, device=device)
        self.logits = torch.zeros((verified, pair.target.shape.vocab), dtype=pair.dtype, device=device)
        self._scattered = torch.randperm(sizes.pages, generator=generator, device=device).to(torch.int32)
        self._places = torch.arange(self.table.shape[1], device=device)

    def fill(self, step: Arranged) -> None:
        """Set what *step* changes. Raises CapacityError if its rows need more pages than there are."""
        rows, needed = len(step.pages), int(step.pages.sum())
        if needed > self.sizes.pages:
            message = (
                f"step: {rows} rows need {needed} KV pages of {PAGE} tokens; this GPU holds {self.sizes.pages} beside "
                "the models, whose drafter stays loaded; use fewer rows, or a lower replica.memory_fraction"
            )
            raise CapacityError(message)
        self.lengths[:rows] = self._send(step.lengths)
        self.stored[:rows] = self._send(step.stored)
        starts = self._send(np.cumsum(step.pages) - step.pages)
        width = int(step.pages.max())
        self.table[:rows, :width] = self._scattered[(starts[:, None] + self._places[:width]) % self.sizes.pages]

    def _send(self, values: IntArray) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def at(self, places: list[int]) -> Tensor:
        """Return token places as a constant on the device."""
        return torch.tensor(places, dtype=torch.int64, device=self.device)


class Work:
    """Makes the calls of a layout. Each holds the constants that it reads, so it must live as long as its graph."""

    def __init__(self, pair: Pair, inputs: Inputs) -> None:
        self.pair, self.inputs = pair, inputs

    def _rows(self, layout: Layout) -> list[Rows]:
        table, lengths = self.inputs.table, self.inputs.lengths
        found, row = [], 0
        for count, width in layout.groups:
            found.append(Rows(width, table[row : row + count], lengths[row : row + count], layout.bound))
            row += count
        for stored, chunk in layout.chunks:
            found.append(Rows(chunk, table[row : row + 1], lengths[row : row + 1], stored + chunk, prompt=True))
            row += 1
        return found

    def target(self, layout: Layout) -> Call:
        """Return the target's pass: logits of every decode row's token, then of the prompts that end."""
        target, rows, tokens = self.pair.target, self._rows(layout), self.inputs.tokens[: layout.tokens]
        at = self.inputs.at([*range(layout.verify_tokens), *layout.ends]) if layout.chunks else ALL
        logits = self.inputs.logits[: layout.verify_tokens + layout.first_tokens]
        if not len(logits):
            return lambda depth: _drop(target.states(tokens, rows, depth=depth))
        return lambda depth: _drop(target.forward(tokens, rows, at, depth=depth, out=logits))

    def rejection(self, layout: Layout) -> Call:
        """Return the sampling of these logits, coins against probabilities, group by group."""
        inputs = self.inputs
        groups = [*layout.groups, (layout.first_tokens, 1)] if layout.first_tokens else layout.groups
        parts, start = [], 0
        for rows, width in groups:
            logits = inputs.logits[start : start + rows * width].view(rows, width, -1)
            drafts = inputs.drafts[: rows * (width - 1)].view(rows, width - 1)
            parts.append((logits, drafts, inputs.coins[: rows * width].view(rows, width)))
            start += rows * width

        def call(_depth: int | None) -> None:
            for part in parts:
                rejection.sample(*part)

        return call

    def draft(self, layout: Layout, length: int) -> Call:
        """Return the draft's passes: one over the step's tokens, then *length* - 1 over one token of each row."""
        draft, rows, tokens = self._drafter(), self._rows(layout), self.inputs.tokens[: layout.tokens]
        drafting = layout.rows + layout.first_tokens
        if not length or not drafting:
            return lambda depth: _drop(draft.states(tokens, rows, depth=depth))
        even = not layout.chunks and len(layout.groups) == 1
        longest = max(layout.bound, *(bound(s + c) for s, c in layout.chunks)) if layout.chunks else layout.bound
        then = Rows(1, self.inputs.table[:drafting], self.inputs.stored[:drafting], longest)
        at = None if even else self.inputs.at(layout.lasts)

        def call(depth: int | None) -> None:
            draft.propose(tokens, rows, length, at=at, then=then, depth=depth)

        return call

    def catch_up(self, pieces: list[tuple[int, int, int]]) -> Call:
        """Return the draft's pass over *pieces*, (row, tokens stored, new tokens), of prompts that it has not seen."""
        draft, tokens = self._drafter(), self.inputs.tokens[: sum(chunk for _, _, chunk in pieces)]
        lengths = self.inputs.at([stored + chunk for _, stored, chunk in pieces]).to(torch.int32)
        rows = [
            Rows(chunk, self.inputs.table[row : row + 1], lengths[i : i + 1], stored + chunk, prompt=True)
            for i, (row, stored, chunk) in enumerate(pieces)
        ]
        return lambda depth: _drop(draft.states(tokens, rows, depth=depth))

    def _drafter(self) -> Any:
        if self.pair.draft is None:
            raise ValueError("the step drafts, but no draft was loaded")
        return self.pair.draft


def _drop(_result: object) -> None:
    """Take a result whose value nobody reads."""
