"""The shape of one engine step: all that a latency model, or a real executor, needs to know of it."""

from __future__ import annotations

from typing import NamedTuple

from sdsim.policy import Drafter, IntArray


class StepShape(NamedTuple):
    """One step: verify the pending drafts of `rows` decode rows, run the prefill chunks, draft again.

    Scalars are what costs depend on; the arrays carry the same facts row by row for an executor. They are views of the
    scheduler's state: they hold until the step ends.
    """

    rows: int
    """Decode rows."""
    verify_tokens: int
    """Target positions of the decode rows: sum of 1 + verify length."""
    context_tokens: int
    """Sum over decode rows of the KV tokens stored before the step."""
    attention_pairs: int
    """Sum over decode rows of (1 + verify length) x stored KV tokens."""
    prefill_tokens: int = 0
    """Prompt tokens of all prefill chunks."""
    prefill_rows: int = 0
    """Prefill chunks."""
    prefill_context: int = 0
    """Sum over chunks of the KV tokens stored before the chunk."""
    prefill_pairs: int = 0
    """Sum over chunks of chunk x (stored + (chunk + 1) / 2), rounded down: causal query-key pairs."""
    first_tokens: int = 0
    """Prefill chunks that end their prompt, and so sample a token and may draft."""
    draft_length: int = 0
    """Tokens drafted per row at the end of the step."""
    draft_rows: int = 0
    """Rows that draft: the decode rows and the chunks that end their prompt."""
    drafter: Drafter = "dropped"
    """`on`, `warm` (its KV kept in step) or `dropped` (none loaded)."""
    catch_up_tokens: int = 0
    """KV tokens that a drafter just loaded has to compute first."""
    distinct_experts: float = 0.0
    """Expected distinct experts a MoE layer of the target loads."""
    contexts: IntArray | None = None
    """(rows,) KV tokens stored before the step."""
    verify_lengths: IntArray | int = 0
    """(rows,) drafts verified, or one number for all rows."""
    chunks: IntArray | tuple[tuple[int, int, int], ...] = ()
    """(chunks, 3): request id, KV tokens stored and tokens of each prefill chunk."""
