"""`python -m sdsim`, or `sdsim` once installed: the commands with an example each; `sdsim run ...` runs one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from sdsim.command import OK, run_command
from sdsim.errors import ScenarioError, did_you_mean

COMMANDS = {
    "run": ("replay a scenario and compare its policies", "python -m sdsim.run scenarios/bursty.yaml"),
    "compare": (
        "paired differences of policies, scenarios or run folders",
        "python -m sdsim.compare off goodput --scenario scenarios/steady.yaml --seeds 8",
    ),
    "sweep": (
        "run a grid of scenarios into one table",
        "python -m sdsim.sweep scenarios/sweeps/lengths.yaml --out lengths.parquet",
    ),
    "suite": (
        "rank policies over a folder of scenarios against an oracle",
        "python -m sdsim.suite --seeds 5",
    ),
    "capacity": (
        "find the highest rate within the SLOs, or the Pareto front",
        "python -m sdsim.capacity scenarios/steady.yaml --slo-attainment 0.9",
    ),
    "recommend": (
        "the best policy, how sure that is, and your engine's configuration",
        "python -m sdsim.recommend scenarios/bursty.yaml --for vllm",
    ),
    "predict": (
        "step times and speedups over batch and draft length",
        "python -m sdsim.predict --model qwen2-57b-a14b --draft qwen2-0.5b --gpu h200",
    ),
    "profile_gpu": (
        "measure this GPU's kernels into a calibration file",
        "python -m sdsim.profile_gpu --model qwen3-30b-a3b --out mine.json --minutes 10",
    ),
    "crosscheck": (
        "compare predictions with measured steps, replays and runs",
        "python -m sdsim.crosscheck --measured steps.jsonl --engine vllm-0.22.1",
    ),
    "reproduce": (
        "the MoESD paper's tables and figures beside ours, on an H200",
        "python -m sdsim.reproduce --points figure4.csv --out moesd",
    ),
    "explain": (
        "why a policy chose a draft length, or the life of a request",
        "python -m sdsim.explain runs/bursty/goodput-seed-7 --step 400",
    ),
    "report_html": (
        "one offline HTML page of finished runs",
        "python -m sdsim.report_html runs/bursty",
    ),
    "price_table": (
        "write the step prices that a policy inside an engine reads",
        "python -m sdsim.price_table scenarios/steady.yaml --out prices.json",
    ),
    "engine_metrics": (
        "acceptance and load of a running vLLM or SGLang",
        "python -m sdsim.engine_metrics --metrics http://localhost:8000 --every 60",
    ),
    "make_trace": (
        "write a generated request trace",
        "python -m sdsim.make_trace --kind conv --seconds 600 --out chat.jsonl.gz",
    ),
}


def overview() -> str:
    """Return the commands, what each does and an example."""
    lines = ["When does speculative decoding pay for a Mixture-of-Experts model, and how should it be scheduled?", ""]
    for name, (purpose, example) in COMMANDS.items():
        lines += [f"  sdsim.{name:<15}{purpose}", f"  {'':<21}{example}", ""]
    return "\n".join([*lines, "Each has --help. --print-completion bash|zsh|tcsh prints a script that completes them."])


def load_command(name: str) -> Any:
    """Return the module of the command *name*, which has `parser` and `main`."""
    return import_module(f"sdsim.{name}.__main__" if name == "engine_metrics" else f"sdsim.{name}")


def main(words: Sequence[str]) -> int:
    """Run the command that *words* begin with, or list the commands. Raises ScenarioError for one that is none."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return OK
    name, *rest = words
    if name == "--print-completion":
        from sdsim.completion import completion_script

        print(completion_script({name: (load_command(name), about) for name, (about, _) in COMMANDS.items()}, rest))
        return OK
    if name not in COMMANDS:
        found = f"unknown command {name!r}{did_you_mean(name, COMMANDS)}"
        raise ScenarioError(f"{found}; allowed: {', '.join(COMMANDS)}; python -m sdsim shows an example of each")
    code: int = load_command(name).main(rest)
    return code


def entry() -> None:
    """Run `sdsim`, which finds modules in the current folder as `python -m sdsim` does."""
    sys.path.insert(0, "")
    run_command(main)


if __name__ == "__main__":
    entry()
