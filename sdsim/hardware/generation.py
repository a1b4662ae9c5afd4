"""Greedy text by speculation: the target's own argmax verifies the draft's tokens, so that the text is the target's.

No coins are injected and no expert ids either: a token is emitted because the target chose it after those before it
(Leviathan et al. 2023 at temperature 0). Batching changes roundings, so a near tie between two tokens may fall the
other way; in float32 the text is the autoregressive one exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels import rejection
from kernels._triton import cdiv
from kernels.draft import greedy
from kernels.layer import Rows
from kernels.verify_attention import PAGE
from sdsim.errors import CapacityError, ScenarioError
from sdsim.hardware.model import Pair


@dataclass
class Text:
    """What was generated: `tokens` of each prompt, and how the drafts fared."""

    tokens: list[list[int]]
    rounds: int = 0
    """Verify steps of the batch."""
    accepted: list[int] = field(default_factory=list)
    """Drafts accepted, by row and round in which the row still ran."""


def generate(pair: Pair, prompts: list[list[int]], new_tokens: int, draft_length: int, pages: int) -> Text:
    """Return *new_tokens* greedy tokens after each prompt, *draft_length* drafts a row and round; 0: none.

    *pages* are the KV pages of the pair. Raises CapacityError where they do not suffice, ScenarioError where the
    models' vocabularies differ.
    """
    if draft_length and (pair.draft is None or pair.draft.shape.vocab != pair.target.shape.vocab):
        found = f"{pair.draft.shape.vocab} tokens" if pair.draft else "no draft"
        allowed = f"{pair.target.shape.vocab}, the target's vocabulary"
        raise ScenarioError(f"draft: found {found}; allowed: {allowed}; name another draft")
    run = _Batch(pair, prompts, new_tokens, draft_length, pages)
    run.prefill(prompts)
    while not run.done():
        run.round()
    return Text([tokens[:new_tokens] for tokens in run.tokens], run.rounds, run.accepted)


class _Batch:
    """Rows that decode together: `stored` [B] tokens in the target's cache, `last` [B, 1] the token emitted last."""

    def __init__(self, pair: Pair, prompts: list[list[int]], new_tokens: int, draft_length: int, pages: int) -> None:
        self.pair, self.length, self.new_tokens = pair, draft_length, new_tokens
        self.longest = max(map(len, prompts)) + new_tokens + 2 * (draft_length + 1)
        per, rows = cdiv(self.longest, PAGE), len(prompts)
        if per * rows > pages:
            raise CapacityError(f"{rows} rows of {self.longest} tokens need {per * rows} KV pages, there are {pages}")
        order = torch.randperm(pages, device=pair.device)[: rows * per]
        self.table = order.view(rows, per).to(torch.int32)
        self.stored = torch.tensor([len(p) for p in prompts], dtype=torch.int32, device=pair.device)
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.rounds, self.accepted = 0, list[int]()

    def done(self) -> bool:
        """Whether every row has its tokens."""
        return all(len(tokens) >= self.new_tokens for tokens in self.tokens)

    def prefill(self, prompts: list[list[int]]) -> None:
        """Store the prompts, emit each row's first token and draft after it."""
        firsts, drafts = [], []
        for row, prompt in enumerate(prompts):
            tokens = torch.tensor(prompt, dtype=torch.int32, device=self.pair.device)
            first = greedy(self.pair.target.forward(tokens, self._prompt(row, len(prompt)), slice(-1, None))[0])
            firsts.append(first)
            if self.length:
                both = torch.cat([tokens, first[0]])
                rows = self._prompt(row, len(both))
                drafts.append(self.pair.draft.propose(both, rows, self.length))  # type: ignore[union-attr]
        self.last = torch.cat(firsts)
        self.drafts = torch.cat(drafts) if drafts else self.last[:, :0]
        self._emit(self.last, torch.zeros_like(self.stored))

    def _prompt(self, row: int, tokens: int) -> list[Rows]:
        lens = torch.tensor([tokens], dtype=torch.int32, device=self.pair.device)
        return [Rows(tokens, self.table[row : row + 1], lens, tokens, prompt=True)]

    def round(self) -> None:
        """Verify the drafts, emit, and draft after what was accepted."""
        width, stored = self.length + 1, self.stored
        tokens = torch.cat([self.last, self.drafts], dim=1)
        rows = Rows(width, self.table, stored + width, self.longest)
        logits, _ = self.pair.target.forward(tokens, [rows])
        verdict = rejection.sample(logits.view(len(tokens), width, -1), self.drafts.contiguous())
        running = torch.tensor([len(t) < self.new_tokens for t in self.tokens], device=stored.device)
        self.stored = torch.where(running, stored + verdict.accepted + 1, stored)
        self.last = verdict.tokens.gather(1, verdict.accepted[:, None].long())
        self.rounds += 1
        self._emit(verdict.tokens, verdict.accepted)
        if self.length:
            # The accepted drafts and the token after them enter the draft's cache; what follows is overwritten later.
            new = Rows(width, self.table, stored + 1 + width, self.longest)
            at = torch.arange(len(tokens), device=stored.device) * width + verdict.accepted
            then = Rows(1, self.table, stored + verdict.accepted + 2, self.longest)
            emitted = verdict.tokens.clamp_min(0)
            self.drafts = self.pair.draft.propose(emitted, [new], self.length, at=at, then=then)  # type: ignore[union-attr]

    def _emit(self, tokens: Tensor, accepted: Tensor) -> None:
        for row, (new, won) in enumerate(zip(tokens.tolist(), accepted.tolist(), strict=True)):
            if len(self.tokens[row]) < self.new_tokens:
                if self.rounds:
                    self.accepted.append(won)
                self.tokens[row] += new[: won + 1]
