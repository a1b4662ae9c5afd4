"""What an installed vLLM is asked to measure: steady steps of some models, or a scenario's requests.

Each job runs in a process of its own, since an engine holds the GPU's memory until its process ends.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdsim.errors import ScenarioError
from sdsim.gpus import gpu_of_device
from sdsim.hardware.process import run_module
from sdsim.hardware.vllm import Job
from sdsim.hardware.vllm_models import vllm_config
from sdsim.scenario import PolicySpec, Scenario
from sdsim.workload import requests

MISSING = "--on vllm: vllm is not installed here; run it where `import vllm` works, on a machine with a GPU"
PROMPT, STEPS = 128, 48
MODEL_LENGTH = 8192
STEPS_LENGTH = 4096


def require_vllm() -> None:
    """Raise ScenarioError unless vLLM can be imported."""
    if importlib.util.find_spec("vllm") is None:
        raise ScenarioError(MISSING)


def step_job(model: str, draft: str | None, length: int, batches: Sequence[int], alpha: float, seed: int = 0) -> Job:
    """Return the job that measures steady steps of *model* at each of *batches*, drafting *length* tokens."""
    return Job(
        model=model,
        target_config=vllm_config(model),
        draft=draft if length else None,
        draft_config=vllm_config(draft) if draft and length else None,
        gamma=length,
        alpha=alpha,
        max_num_seqs=max(batches),
        max_num_batched_tokens=8192,
        memory_fraction=0.95,
        max_model_len=STEPS_LENGTH,
        seed=seed,
        steps=[(batch, PROMPT, STEPS) for batch in batches],
        requests=[],
    )


def replay_job(scenario: Scenario, policy: PolicySpec) -> Job:
    """Return the job that replays *scenario*'s requests under *policy*; ScenarioError if vLLM cannot."""
    draft, length, alpha = _speculation(scenario, policy)
    if scenario.replicas != 1 or scenario.gpus.count != 1:
        raise ScenarioError(f"--on vllm: {scenario.replicas} replicas of {scenario.gpus}; allowed: one of one GPU")
    spec = scenario.replica
    return Job(
        model=scenario.model,
        target_config=vllm_config(scenario.model, scenario.folder),
        draft=draft,
        draft_config=vllm_config(draft, scenario.folder) if draft else None,
        gamma=length,
        alpha=alpha,
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=spec.max_num_batched_tokens,
        memory_fraction=spec.memory_fraction,
        max_model_len=MODEL_LENGTH,
        seed=scenario.seed,
        steps=[],
        requests=_requests(scenario),
    )


def _speculation(scenario: Scenario, policy: PolicySpec) -> tuple[str | None, int, float]:
    """Return the draft model, the draft length and the acceptance rate that *policy* asks of vLLM."""
    length = int(policy.parameters.get("length", 0)) if policy.kind == "fixed" else 0
    if policy.kind != "off" and not length:
        raise ScenarioError(f"policy: {policy.kind}; allowed with --on vllm: off, or fixed with a length of 1 or more")
    if not length:
        return None, 0, 0.0
    draft, law = scenario.draft, scenario.acceptance
    if draft is None or draft.kind != "model":
        raise ScenarioError(f"draft: {draft.kind if draft else 'none'}; allowed with --on vllm: a draft model")
    if law is None or law.kind != "iid":
        raise ScenarioError(
            f"acceptance: {law.kind if law else 'none'}; allowed with --on vllm: iid, which is synthetic"
        )
    return draft.model, length, law.rate


def _requests(scenario: Scenario) -> list[tuple[float, int, int]]:
    found: list[tuple[float, int, int]] = []
    for block in requests(scenario.workload, scenario.seed, scenario.until):
        if np.isnan(block.arrival_s).any():
            raise ScenarioError(
                f"workload: {scenario.workload.kind}; allowed with --on vllm: arrivals of their own time"
            )
        columns = (block.arrival_s, block.prompt_tokens, block.output_tokens)
        found += zip(*(column.tolist() for column in columns), strict=True)
    if not found:
        raise ScenarioError(f"--seconds: no request arrives within {scenario.until} s; give more")
    longest = max(prompt + output for _, prompt, output in found)
    if longest > MODEL_LENGTH:
        raise ScenarioError(
            f"workload: a request of {longest} tokens; allowed with --on vllm: {MODEL_LENGTH}; use clip"
        )
    return found


def run_jobs(jobs: Sequence[Job], out: Path) -> None:
    """Run *jobs* one after another and write all their lines to *out*. Raises ScenarioError if one fails."""
    require_vllm()
    lines = list(itertools.chain.from_iterable(_run(job) for job in jobs))
    out.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def _run(job: Job) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        asked, measured = Path(folder) / "job.json", Path(folder) / "lines.jsonl"
        asked.write_text(json.dumps(job), encoding="utf-8")
        what = f"--on vllm: {job['model']} with {job['gamma']} drafts"
        run_module("sdsim.hardware.vllm", [str(asked), str(measured)], what)
        return [_with_gpu(json.loads(line)) for line in measured.read_text(encoding="utf-8").splitlines()]


def _with_gpu(line: dict[str, Any]) -> dict[str, Any]:
    """Return *line* with this project's name of its device, if it has one."""
    named = gpu_of_device(line["device"])
    return line if named is None else {"gpu": named, **line}
