"""Write step prices for a policy in a live engine: `python -m sdsim.price_table SCENARIO --out prices.json`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdsim.adapters.prices import PriceTable, tabulate
from sdsim.command import OK, Parser, add_allow_code, parsed, run_command, whole_numbers
from sdsim.errors import ScenarioError
from sdsim.latency.prices import Prices
from sdsim.policies.lengths import LONGEST
from sdsim.scenario import load_scenario
from sdsim.simulation import make_system
from sdsim.whole import write_file

EXAMPLE = """example:
  python -m sdsim.price_table scenarios/steady.yaml --lengths 0,1,3,5 --out prices.json
then, with the same lengths in num_speculative_tokens_per_batch_size:
  vllm serve ... --scheduler-cls sdsim.adapters.vllm.AsyncScheduler --additional-config \\
    '{"sdsim": {"policy": {"kind": "goodput", "lengths": [0, 1, 3, 5]}, "prices": "prices.json"}}'"""
CHECKED = 400
ABOUT = ("model", "draft", "gpus", "engine", "calibration", "routing")


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.price_table",
        description="Write the step prices of a scenario's models on its GPUs, for a policy in a live engine.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "scenario", metavar="SCENARIO", help="a scenario file, for its model, draft, gpus, engine and routing"
    )
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, such as engine=ideal")
    p.add_argument("--lengths", default="0,1,2,3,4,5,6,7,8", help="draft lengths that the policy chooses among")
    p.add_argument("--context", type=int, default=32768, metavar="TOKENS", help="longest mean context (default 32768)")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    add_allow_code(p)
    return p


def axes(lengths: Sequence[int], max_num_seqs: int, context: int, budget: int) -> dict[str, list[int]]:
    """Return the grid: finer where graph sizes change, and doubling beyond."""
    rows = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, *range(64, max_num_seqs, 32)]
    return {
        "rows": sorted({r for r in rows if r < max_num_seqs} | {max_num_seqs}),
        "drafts_per_row": list(range(max(lengths) + 1)),
        "draft_lengths": list(lengths),
        "contexts": [0, *_doubling(512, context, 4)],
        "prefill_tokens": [0, *_doubling(128, budget, 4)],
    }


def _doubling(first: int, last: int, factor: int) -> list[int]:
    values = []
    while first < last:
        values.append(first)
        first *= factor
    return [*values, last]


def errors(table: PriceTable, cost: Prices, grid: dict[str, list[int]]) -> tuple[float, float]:
    """Return the median and the largest relative error of *table* at random steps on and between its points."""
    rng = np.random.default_rng(0)

    def inside(axis: str) -> int:
        return int(rng.integers(grid[axis][0], grid[axis][-1] + 1))

    found = []
    for step in range(CHECKED):
        prompt = inside("prefill_tokens") if step % 2 else 0
        point = (inside("rows"), int(rng.choice(grid["draft_lengths"])), inside("contexts"), prompt)
        found.append(abs(table.step_seconds(*point) / cost.step_seconds(*point) - 1.0))
    return float(np.median(found)), float(np.max(found))


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parsed(parser(), words)
    lengths = sorted({0, *whole_numbers("--lengths", options.lengths, 0, LONGEST)})
    if options.context < 1:
        raise ScenarioError(f"--context: {options.context}; allowed: 1 token or more")
    scenario = load_scenario(options.scenario, options.set, options.allow_code)
    if scenario.draft is None:
        raise ScenarioError(f"{options.scenario}: no draft, so nothing to price; add one, such as draft: eagle3")
    replica, system = scenario.replica, make_system(scenario)
    context = min(options.context, system.target.max_positions)
    grid = axes(lengths, replica.max_num_seqs, context, replica.max_num_batched_tokens)
    table = tabulate(system.prices, grid)
    median, worst = errors(table, system.prices, grid)
    resolved = scenario.resolved()
    about = {key: resolved[key] for key in ABOUT}
    content = table.content() | {"about": about, "median_error": median, "largest_error": worst}
    text = json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n"
    write_file(options.out, lambda draft: draft.write_text(text, encoding="utf-8"))
    points = math.prod(len(axis) for axis in grid.values())
    print(
        f"{options.out}: {points:,} prices; {CHECKED} other steps: {median:.1%} off in the median, {worst:.1%} at most"
    )
    return OK


if __name__ == "__main__":
    run_command(main)
