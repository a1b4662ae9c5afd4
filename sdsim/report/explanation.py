"""Explanations as text: a step with its lengths side by side, a request with its life."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdsim.explanation import Explanation, Life
from sdsim.explanation.life import Turn
from sdsim.explanation.reasons import name
from sdsim.report.numerals import DASH, number, percent, time_unit, times
from sdsim.report.run_block import block
from sdsim.report.sheet import HEADING, Column, Sheet

MOST_LINES = 12
"""Lines that a request's decode steps take."""
MS = 1000.0
Facts = dict[str, Any]


def print_step(console: Console, found: Explanation) -> None:
    """Print what the policy saw and chose, every length's cost, and why."""
    saw, chose = found.saw, found.chose
    where = f"Step {found.step} of replica {found.replica} at {saw['now_s']:.3f} s"
    console.print(Text(f"{where}: {found.policy} chose {_choice(chose)}", style=HEADING))
    console.print(Text(found.law))
    console.print()
    console.print(block("It saw", _seen(saw)))
    console.print(Text(f"(acceptance: {saw['believed_from']})", style="dim"))
    console.print()
    if found.lengths:
        lengths_sheet(found.lengths).show(console)
    for sentence in (*found.why, _outcome(found.happened, chose)):
        console.print(Text(sentence))


def _choice(chose: Facts) -> str:
    return f"K = {chose['draft_length']}" + ("" if chose["drafter"] == "on" else f", drafter {chose['drafter']}")


def _seen(saw: Facts) -> list[tuple[str, str]]:
    context, longest = saw["context_mean_tokens"], saw["context_max_tokens"]
    prompts = f"{saw['prefill_tokens']:,} tokens of {saw['prefill_requests']} requests"
    return [
        ("decode rows", number(saw["batch"])),
        ("context, mean (longest)", DASH if context is None else f"{context:,.0f} ({longest:,}) tokens"),
        ("prompts beside them", prompts if saw["prefill_tokens"] else "none"),
        ("drafts pending", number(saw["pending_drafts"])),
        ("requests waiting", number(saw["waiting"])),
        ("KV blocks free", number(saw["kv_free_blocks"])),
        ("acceptance believed", f"{saw['believed_acceptance']:.3f}"),
    ]


def lengths_sheet(lengths: Sequence[Facts]) -> Sheet:
    """Return the table of what each length would cost and bring; the chosen one is marked."""
    chosen = frozenset(i for i, row in enumerate(lengths) if row["chosen"])
    names = [name(row) + (" *" if row["chosen"] else "") for row in lengths]
    return Sheet(
        (
            Column("length\n* chosen", names, chosen, names=True),
            Column("step\nms", [times(row["step_s"], MS) for row in lengths]),
            Column("tokens\n/row", [number(row["tokens_per_row"], 2) for row in lengths]),
            Column("tok/s", [number(row["tokens_per_s"]) for row in lengths], chosen),
            Column("against\nchosen", [f"{row['gain']:+.1%}" for row in lengths]),
            Column("experts\n/layer", [number(row["distinct_experts"]) for row in lengths]),
        )
    )


def _outcome(happened: Facts, chose: Facts) -> str:
    drafts = f"{happened['accepted_tokens']} of {chose['verified_drafts']} drafts were accepted"
    return f"It took {happened['seconds'] * MS:,.4g} ms and emitted {happened['emitted_tokens']} tokens" + (
        f"; {drafts}." if chose["verified_drafts"] else "."
    )


def print_request(console: Console, life: Life) -> None:
    """Print a request's times, events and decode steps."""
    what = f"{life.request_class}, {life.prompt_tokens:,} prompt and {life.output_tokens:,} output tokens"
    title = f"Request {life.request} ({what}) on replica {life.replica} under {life.policy}"
    console.print(Text(title, style=HEADING))
    console.print()
    console.print(_events(life))
    console.print()
    console.print(block("Times", _durations(life.times)))
    if life.turns:
        console.print(block("Decoding", _drafting(life.drafts)))
        turns_sheet(life.turns).show(console)


def _events(life: Life) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for event in life.events:
        step = "" if event["step"] is None else f"step {event['step']}"
        table.add_row(Text(f"{event['at_s']:.3f} s"), Text(step), Text(_event(event)))
    if life.times["e2e_s"] is None:
        table.add_row("", "", Text("unfinished when the run ended"))
    return table


def _event(event: Facts) -> str:
    if event["event"] != "prefill":
        return str(event["event"])
    after = f" after {event['stored']:,} stored" if event["stored"] else ""
    return f"prefill of {event['tokens']:,} tokens{after}, {event['seconds'] * MS:,.3g} ms"


def _durations(found: Facts) -> list[tuple[str, str]]:
    shown = []
    for key, label in {
        "waiting_s": "waiting",
        "prefill_s": "prefill",
        "decoding_s": "decoding",
        "ttft_s": "TTFT",
        "tpot_s": "TPOT",
        "e2e_s": "E2E",
    }.items():
        scale, unit = time_unit([found[key]])
        shown.append((label, f"{times(found[key], scale)} {unit}" if found[key] is not None else DASH))
    return shown


def _drafting(drafts: Facts) -> list[tuple[str, str]]:
    return [
        ("steps", number(drafts["steps"])),
        ("tokens per step", number(drafts["tokens_per_step"], 2)),
        ("drafts won", number(drafts["won"])),
        ("drafts lost", number(drafts["lost"])),
        ("acceptance rate", percent(drafts["acceptance_rate"])),
        ("steps shared with prompts", number(drafts["steps_with_prompts"])),
    ]


def turns_sheet(turns: Sequence[Turn]) -> Sheet:
    """Return the decode steps, evenly gathered into a few lines."""
    size = -(-len(turns) // MOST_LINES)
    groups = [turns[i : i + size] for i in range(0, len(turns), size)]

    def means(values: list[list[float]], places: int | None = None) -> list[str]:
        return [number(sum(v) / len(v), places) for v in values]

    def sums(field: str) -> list[str]:
        return [number(sum(getattr(t, field) for t in g)) for g in groups]

    spans = [f"{g[0].step}" + (f" to {g[-1].step}" if len(g) > 1 else "") for g in groups]
    return Sheet(
        (
            Column("steps", spans, names=True),
            Column("from\ns", [f"{g[0].start_s:.3f}" for g in groups]),
            Column("step\nms", means([[t.seconds * MS for t in g] for g in groups])),
            Column("batch", means([[t.batch for t in g] for g in groups])),
            Column("verified", sums("verified")),
            Column("won", sums("accepted")),
            Column("tokens", sums("emitted")),
            Column("prompt\ntokens", sums("prompt_tokens")),
        )
    )
