"""Small runs as the command records them, for what reads them afterwards."""

from __future__ import annotations

from pathlib import Path

from sdsim.run import main

TIGHT = """
model: qwen3-30b-a3b
draft: {kind: model, model: qwen2-0.5b}
gpus: 1 x h200
replicas: 2
replica: {max_num_seqs: 32, memory_fraction: 0.418, max_num_batched_tokens: 2048}
workload:
  {kind: poisson, rate: 200/s, limit: 80, lengths: {prompt: 300, output: 150},
   classes: {chat: {share: 0.5}, code: {share: 0.5}}}
acceptance: {kind: mixture, classes: {chat: {rate: 0.5}, code: {rate: 0.9}}}
policy: {kind: goodput}
slo: {ttft: 2s, tpot: 50ms}
seed: 3
"""
"""KV memory for a few requests only, so that some are preempted."""
POLICIES = ("--policy", "off", "--policy", "{kind: fixed, length: 3}", "--policy", "goodput")


def record(folder: Path, *words: str, plots: bool = False) -> Path:
    """Run the scenario with the options *words* into a folder of *folder*, and return it."""
    scenario, out = folder / "tight.yaml", folder / "tight"
    scenario.write_text(TIGHT)
    less = () if plots else ("--no-plots",)
    assert main([str(scenario), "--out", str(out), "--quiet", "--jobs", "1", *less, *words]) == 0
    return out
