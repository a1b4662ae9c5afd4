"""Why, in words: where the choice stands among the lengths, what drafting adds to the step, and what it brings."""

from __future__ import annotations

from sdsim.breakdown import PARTS
from sdsim.explanation.lengths import cost_at
from sdsim.explanation.record import Facts
from sdsim.replay import Step
from sdsim.simulation import System

LARGEST = 3
"""Parts of the step that are named."""


def reasons(system: System, seen: Step, lengths: list[Facts], rate: float) -> list[str]:
    """Return sentences on the choice among *lengths* at the acceptance *rate* believed."""
    if not lengths:
        return ["No row decodes and no prompt ends in this step, so there is nothing to draft for."]
    sentences = [_rank(lengths, rate)]
    chosen = next(t for t in lengths if t["chosen"])
    if chosen["draft_length"]:
        sentences.append(_pays(system, seen, chosen, lengths[-1]))
    return [*sentences, *_verified(seen), *_prompts(seen)]


def _rank(lengths: list[Facts], rate: float) -> str:
    """Say where the choice stands among all lengths."""
    may = [t for t in lengths if t["draft_length"] is not None] or lengths
    best = max(may, key=lambda t: float(t["tokens_per_s"]))
    chosen = next(t for t in lengths if t["chosen"])
    if len(may) == 1:
        return f"{name(chosen)} is all that it may choose."
    if best is chosen:
        second = max((t for t in may if t is not chosen), key=lambda t: float(t["tokens_per_s"]))
        gain = chosen["tokens_per_s"] / second["tokens_per_s"] - 1
        return f"At acceptance {rate:.2f}, {name(chosen)} has the most tokens/s: {gain:.1%} more than {name(second)}."
    return (
        f"At acceptance {rate:.2f}, {name(best)} would have {best['gain']:.1%} more tokens/s than {name(chosen)}: "
        "the policy does not go by these figures alone."
    )


def _pays(system: System, seen: Step, chosen: Facts, off: Facts) -> str:
    """Say what drafting adds to a step against no drafter, where, and whether its tokens make up for it."""
    on, base = (cost_at(system, seen, t["draft_length"]).components for t in (chosen, off))
    extra = {part: sum(on[c] - base[c] for c in names) for part, names in PARTS.items()}
    largest = sorted(extra, key=lambda part: -extra[part])[:LARGEST]
    parts = ", ".join(f"{part} {1e3 * extra[part]:+.2f} ms" for part in largest if extra[part] > 0)
    longer, more = chosen["step_s"] / off["step_s"], chosen["tokens_per_row"]
    return (
        f"Against no drafter the step takes {longer:.2f} times as long ({parts}){_experts(chosen, off)} and emits "
        f"{more:.2f} times the tokens, so drafting {'pays' if more > longer else 'does not pay'}."
    )


def _experts(chosen: Facts, off: Facts) -> str:
    loaded, base = f"{chosen['distinct_experts']:.0f}", f"{off['distinct_experts']:.0f}"
    return "" if loaded == base else f", loads {loaded} experts a layer instead of {base}"


def _verified(seen: Step) -> list[str]:
    pending, verified = int(seen.observation.pending.sum()), seen.shape.verify_tokens - seen.shape.rows
    return [] if verified == pending else [f"It verified {verified} of the {pending} drafts that were pending."]


def _prompts(seen: Step) -> list[str]:
    tokens, verified = seen.observation.prefill_tokens, seen.shape.verify_tokens
    if not tokens or not seen.observation.batch:
        return []
    return [f"{tokens:,} prompt tokens share the step with {verified:,} verified positions; the prices count them."]


def name(row: Facts) -> str:
    """Return how a row of lengths is called."""
    return "OFF" if row["draft_length"] is None else f"K = {row['draft_length']}"
