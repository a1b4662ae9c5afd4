"""Predict step times and speedups: `python -m sdsim.predict --model qwen2-57b-a14b --gpu h200 --draft qwen2-0.5b`."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdsim.command import OK, Parser, run_command, whole_numbers
from sdsim.errors import ScenarioError
from sdsim.latency.prices import Prices
from sdsim.policies.acceptance_estimate import tokens_per_step
from sdsim.policies.lengths import LONGEST
from sdsim.result import to_json
from sdsim.scenario import scenario_from_mapping
from sdsim.simulation import make_system
from sdsim.units import parse_gpus

EXAMPLE = """example:
  python -m sdsim.predict --model qwen2-57b-a14b --draft qwen2-0.5b --gpu h200 --batch 1,8,32 --draft-length 0,2,4"""


def parser() -> Parser:
    """Return the command's options."""
    p = Parser(
        "python -m sdsim.predict",
        description="Predict a decode step and the speedup of speculation, over batch and draft length.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", required=True, help="a name in models.yaml, or the path of a config.json")
    p.add_argument("--gpu", required=True, help="a name in gpus.yaml; `8 x h200` shares the model over eight")
    p.add_argument(
        "--draft",
        default="none",
        help="a draft model's name or config.json, eagle3, mtp, '{kind: ngram, available: 0.4}', or none",
    )
    p.add_argument("--engine", default="ideal", help="an engine's overheads (default: ideal, none)")
    p.add_argument("--batch", default="1,2,4,8,16,32,64,128,256", help="batch sizes, such as 1,2,4")
    p.add_argument("--draft-length", help="draft lengths (default 0,1,2,3,4; without a draft 0, decoding with none)")
    p.add_argument("--context", default="128", help="tokens per sequence, prompt included")
    p.add_argument("--acceptance", type=float, default=0.8, help="acceptance rate per draft token (default 0.8)")
    p.add_argument("--routing", default="uniform", help="uniform, or a mapping such as '{kind: skewed, alpha: 1.2}'")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--full", action="store_true", help="print every figure of every row as well")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw speedup, target efficiency and components")
    return p


def _mapping(option: str, text: str) -> Any:
    """Return the word or mapping in *text*, the value of *option*."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ScenarioError(f"{option}: {text!r} is not YAML; give a word or a mapping") from None


def prices(options: argparse.Namespace) -> Prices:
    """Return the prices of the model, GPU, draft, engine and routing that the options name."""
    draft = options.draft
    if draft.startswith("{"):
        draft = _mapping("--draft", draft)
    elif draft not in ("none", "eagle3", "mtp", "ngram"):
        draft = {"kind": "model", "model": draft}
    mapping: dict[str, Any] = {
        "model": options.model,
        "gpus": options.gpu,
        "draft": None if draft == "none" else draft,
        "engine": options.engine,
        "routing": _mapping("--routing", options.routing),
        "acceptance": {"kind": "iid", "rate": options.acceptance},
        "workload": {"kind": "poisson", "rate": 1, "limit": 1, "lengths": {"prompt": 1, "output": 1}},
    }
    with suppress(ValueError):  # what is no number of GPUs is refused with the rest of the scenario
        mapping["replica"] = {"tensor_parallel": parse_gpus(options.gpu).count}
    return make_system(scenario_from_mapping(mapping, Path(), "command line")).prices


def predict_row(priced: Prices, batch: int, draft_length: int, context: int, acceptance: float) -> dict[str, Any]:
    """Return one row of the prediction; times in s, tokens per sequence."""
    base, cost = priced.cost(batch, 0, context), priced.cost(batch, draft_length, context)
    tokens = tokens_per_step(acceptance, draft_length)
    return {
        "batch": batch,
        "draft_length": draft_length,
        "context": context,
        "step_s": cost.seconds,
        "target_s": cost.target_s,
        "draft_s": cost.draft_s,
        "reject_s": cost.reject_s,
        "overhead_s": cost.overhead_s,
        "distinct_experts": priced.shape(batch, draft_length, context).distinct_experts,
        "tokens_per_step": tokens,
        "speedup": tokens * base.seconds / cost.seconds,
        "target_efficiency": base.target_s / cost.target_s,
        "data_quality": cost.quality,
    }


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(words)
    batches = whole_numbers("--batch", options.batch, 1, 65536)
    drafts = options.draft_length or ("0" if options.draft == "none" else "0,1,2,3,4")
    lengths = whole_numbers("--draft-length", drafts, 0, LONGEST)
    contexts = whole_numbers("--context", options.context, 1, 10_000_000)
    if options.draft == "none" and any(lengths):
        raise ScenarioError("--draft: none, but --draft-length asks for drafts; name a draft, or ask for 0 only")
    priced = prices(options)
    grid = list(itertools.product(batches, lengths, contexts))
    rows = [predict_row(priced, b, k, c, options.acceptance) for b, k, c in grid]
    if options.plot:
        from sdsim.report.plots import plot_predict

        parts = [{"batch": b, "draft_length": k} | priced.cost(b, k, c).components for b, k, c in grid]
        plot_predict(rows, parts, options.plot)
    if options.json:
        print(to_json({"rows": rows}))
    else:
        from rich.console import Console

        from sdsim.report.console import predict_table

        title = f"{options.model} + {options.draft} on {options.gpu}, acceptance {options.acceptance}"
        predict_table(Console(), rows, title, options.full)
    return OK


if __name__ == "__main__":
    run_command(main)
