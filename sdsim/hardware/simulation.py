"""A scenario with its steps run on the GPU: the simulator's requests, coins, policies and schedulers.

The clock advances by the measured seconds of each step, so waiting for arrivals takes no time: a replay of the traffic
as fast as the GPU goes. What the host does between steps is not in it, as in `engine: ideal`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import astuple, replace
from typing import Any, ClassVar, cast

import numpy as np

from kernels._triton import cdiv
from kernels.verify_attention import PAGE
from sdsim.drafts import Draft
from sdsim.errors import ScenarioError
from sdsim.gpus import gpu_of_device, load_gpu
from sdsim.hardware.executor import Executor, device_name
from sdsim.hardware.model import Pair, Sizes, fitting, pick_device
from sdsim.hardware.routes import Tally
from sdsim.hardware.shape import whole_shape
from sdsim.latency.composition import ComposedLatency
from sdsim.policy import FloatArray
from sdsim.pools import replica_blocks
from sdsim.result import Result
from sdsim.scenario import PolicySpec, Scenario
from sdsim.simulation import DEFAULT_LENGTHS, System, make_policy, make_system, simulate
from sdsim.step import StepShape

IDEAL = "ideal"
"""The engine that a run on the GPU is to be compared with, and that its policies price their steps by."""

CAPTURE_AFTER = 3
"""Uses of a step's layout from which it is captured: traffic makes most of them once."""


class _OnGpu:
    """Stands where a run has its latency model; keeps what each step took and touched."""

    quality: ClassVar = {"measured": 1.0, "interpolated": 0.0, "extrapolated": 0.0}
    works_ahead = False
    """The executor has a step's tokens before the next one is scheduled."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._graphs = executor.graphs.captured, executor.graphs.seconds
        self.tally = Tally()
        self.gpu_s = self.host_s = 0.0
        self._experts: dict[float, deque[float]] = defaultdict(deque)

    def seconds(self, shape: StepShape, /) -> float:
        """Run the step; return what the GPU took."""
        found = self._executor.step(shape)
        self.tally.add(found.distinct_experts)
        self.gpu_s += found.seconds
        self.host_s += found.host_s
        self._experts[found.seconds].append(float(found.distinct_experts.mean()) if found.distinct_experts.size else 0)
        return found.seconds

    def account(self) -> dict[str, Any]:
        """Return what the run was on and what it took, captures apart."""
        graphs, pair = self._executor.graphs, self._executor.pair
        return {
            "device": device_name(pair.device),
            "kv_tokens": self._executor.sizes.pages * PAGE,
            "gpu_s": self.gpu_s,
            "host_s": self.host_s,
            "graphs": graphs.captured - self._graphs[0],
            "capture_s": graphs.seconds - self._graphs[1],
            "distinct_experts_se": self.tally.mean()[1],
        }

    def experts(self, seconds: FloatArray) -> FloatArray:
        """Return the distinct experts, mean over layers, of recorded steps, which are told by their *seconds*."""
        return np.array([self._experts[s].popleft() for s in seconds.tolist()])


def run_on_gpu(
    scenario: Scenario,
    policy: PolicySpec | None = None,
    seed: int | None = None,
    seconds: float | None = None,
    executor: Executor | None = None,
    progress: Callable[[float], None] | None = None,
) -> Result:
    """Run *scenario* as `simulate` does, with every step run on this GPU; its summary has `hardware` besides.

    *policy* and *seed* default as in `simulate`. *seconds* of the scenario are run at most, as by its `until`.
    *executor* may serve several runs: see `make_executor`. Raises ScenarioError for what this GPU cannot run.
    """
    chosen = scenario.policies[0] if policy is None else policy
    system = make_system(scenario, IDEAL)
    executor = executor or make_executor(scenario, [chosen])
    needed = replace(_sizes(scenario, system, [chosen]), pages=0)  # a step that outgrows the pages says so itself
    if any(need > have for need, have in zip(astuple(needed), astuple(executor.sizes), strict=True)):
        raise ValueError(f"the executor holds {executor.sizes}, the run needs {needed}")
    if seconds is not None:
        scenario = scenario.model_copy(update={"until": min(seconds, scenario.until or seconds)})
    gpu = _OnGpu(executor)
    result = simulate(
        scenario, chosen, seed, IDEAL, progress, replace(system, latency=lambda *_: cast(ComposedLatency, gpu))
    )
    # the experts that were counted, in the place of those expected
    steps = result.steps | {"distinct_experts": gpu.experts(result.steps["seconds"])}
    found = {"engine": "gpu", "moe": {"distinct_experts_mean": gpu.tally.mean()[0] or None}, "hardware": gpu.account()}
    return replace(result, steps=steps, summary=result.summary | found)


def make_executor(scenario: Scenario, policies: Iterable[PolicySpec] | None = None, seed: int = 0) -> Executor:
    """Return an executor of *scenario*'s models with room for runs of *policies*, by default all of its own.

    KV memory is what the simulator gives the policy with the most, or what this GPU has room for: with a draft loaded,
    a run without one has less than a GPU of its own would give it.
    """
    system = make_system(scenario, IDEAL)
    chosen = list(scenario.policies if policies is None else policies)
    device = pick_device()
    _check(scenario, system, device)
    draft = system.draft.model if system.draft and any(_loads_draft(p, system) for p in chosen) else None
    shapes = [whole_shape(model) for model in (system.target, draft) if model is not None]
    sizes = _sizes(scenario, system, chosen)
    sizes = fitting(shapes, sizes) if device == "cuda" else sizes
    pair = Pair(shapes[0], shapes[1] if draft else None, sizes, device=device)
    return Executor(pair, sizes, seed, CAPTURE_AFTER)


def _loads_draft(spec: PolicySpec, system: System) -> bool:
    return bool(getattr(make_policy(spec, system), "loads_drafter", True))


def _longest(spec: PolicySpec, system: System) -> int:
    return max(getattr(make_policy(spec, system), "lengths", DEFAULT_LENGTHS)) if _loads_draft(spec, system) else 0


def _sizes(scenario: Scenario, system: System, policies: list[PolicySpec]) -> Sizes:
    """Return the room that runs of *policies* need: the KV memory that the simulator gives them."""
    replica = scenario.replica
    longest, pages = 0, 0
    for spec in policies:
        length = _longest(spec, system)
        draft: Draft | None = system.draft if _loads_draft(spec, system) else None
        blocks = replica_blocks(scenario, system, draft, length)
        longest, pages = max(longest, length), max(pages, cdiv(blocks * scenario.block_size, PAGE))
    if scenario.block_size % PAGE:
        pages += replica.max_num_seqs  # a row's last page may be part empty
    positions = system.target.max_positions + 2 * (longest + 1)
    return Sizes(replica.max_num_seqs, replica.max_num_batched_tokens, longest, pages, positions)


def _check(scenario: Scenario, system: System, device: str) -> None:
    """Raise ScenarioError for what a run on this GPU cannot honour."""
    problems = []
    if scenario.is_fleet:
        found = "pools, failures, autoscale, prefix_cache, priorities or sessions"
        problems.append(f"scenario: found {found}; allowed on the GPU: replicas side by side; simulate the rest")
    if scenario.gpus.count != 1:
        problems.append(f"gpus: found {scenario.gpus}; allowed on the GPU: 1 a replica; simulate more")
    if device == "cuda" and gpu_of_device(device_name(device)) != load_gpu(scenario.gpus.name).name:
        problems.append(f"gpus: found {scenario.gpus.name}, this GPU is {device_name(device)}; name it in the scenario")
    if system.draft is not None and system.draft.kind not in ("model", "ngram"):
        problems.append(f"draft.kind: found {system.draft.kind}; allowed on the GPU: model, ngram; name one of them")
    law = scenario.routing
    if law.kind == "skewed" or (law.kind == "correlated" and (law.within, law.between) != (1.0, 1.0)):
        problems.append(f"routing: found {law.kind}; allowed on the GPU: uniform; leave it out")
    if problems:
        raise ScenarioError(*problems)
