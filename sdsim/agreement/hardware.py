"""Measurements made now: a scenario on the GPU or in vLLM, and steps of models on either."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sdsim.agreement.gpu_points import MISSING, fitting_points, measure_points, require_gpu
from sdsim.agreement.setting import GPU, Setting, usual_draft
from sdsim.errors import ScenarioError, gpu_failure
from sdsim.measurements.record import shipped_config
from sdsim.result import Result
from sdsim.scenario import Scenario, load_scenario
from sdsim.simulation import simulate


def gpu_runs(
    path: str,
    seconds: float | None,
    setting: Setting,
    allow_code: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Iterator[tuple[Result, Result]]:
    """Yield each policy's run of the scenario on the GPU, and the same run simulated.

    *progress* takes the time, s, that a run on the GPU has come to.
    """
    scenario = _cut(load_scenario(path, (), allow_code), seconds)
    scenario = scenario.model_copy(update={"calibration": setting.calibration or scenario.calibration})
    try:
        from sdsim.hardware.simulation import IDEAL, make_executor, run_on_gpu
    except ImportError as error:
        raise ScenarioError(MISSING.format(error=error)) from None
    try:
        executor = make_executor(scenario)
        for policy in scenario.policies:
            measured: Result = run_on_gpu(scenario, policy, executor=executor, progress=progress)
            yield measured, simulate(scenario, policy, engine=setting.engine or IDEAL)
    except RuntimeError as error:
        raise ScenarioError(gpu_failure("--on gpu", error)) from None


def _cut(scenario: Scenario, seconds: float | None) -> Scenario:
    stops = [stop for stop in (seconds, scenario.until) if stop is not None]
    return scenario.model_copy(update={"until": min(stops)}) if stops else scenario


def vllm_replays(path: str, seconds: float | None, lines: Path, allow_code: bool = False) -> None:
    """Replay the scenario's requests in vLLM, once a policy, and write the record to *lines*."""
    from sdsim.hardware.vllm_jobs import replay_job, require_vllm, run_jobs

    require_vllm()
    scenario = _cut(load_scenario(path, (), allow_code), seconds)
    run_jobs([replay_job(scenario, policy) for policy in scenario.policies], lines)


def vllm_steps(
    models: Sequence[str], draft: str | None, lengths: Sequence[int], batches: Sequence[int], alpha: float, lines: Path
) -> None:
    """Measure steady steps of *models* in vLLM, a process a model and draft length, and write the record to *lines*."""
    from sdsim.hardware.vllm_jobs import require_vllm, run_jobs, step_job

    require_vllm()
    run_jobs([step_job(m, draft or usual_draft(m), k, batches, alpha) for m in models for k in lengths], lines)


def gpu_steps(models: Sequence[str], setting: Setting, count: int, alpha: float, seed: int, lines: Path) -> None:
    """Measure *count* stratified steps of each of *models* on the GPU, and write the record to *lines*."""
    require_gpu()
    found = []
    for model in models:
        named = setting.draft or usual_draft(model)
        draft = shipped_config(named) or named
        points = fitting_points(model, draft, setting.gpu or GPU, count, seed)
        measured = measure_points(model, draft, points, alpha, seed)
        found += [line | {"draft": line["draft"] and named} for line in measured]  # a shipped config's path is ours
    lines.write_text("".join(f"{json.dumps(line)}\n" for line in found), encoding="utf-8")
