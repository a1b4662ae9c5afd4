"""One simulated run: a scenario, a policy and a seed in, a `Result` out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from sdsim.acceptance import MAX_DRAFT_LENGTH, Acceptance, make_acceptance
from sdsim.engine import Engine
from sdsim.errors import CapacityError, PolicyError
from sdsim.fleet import Ends, Fleet
from sdsim.latency.quality import shares
from sdsim.metrics import slo_of, summarise
from sdsim.policies import get_policy, label, policy_class
from sdsim.policy import Policy
from sdsim.pools import Pool, System, fleet_plan, make_system
from sdsim.prefix import PrefixCache, Prefixes, ReusingScheduler
from sdsim.recorder import Recorder
from sdsim.replica import Replica, Rules
from sdsim.request import RequestTable
from sdsim.result import Result
from sdsim.routers import Router, make_router
from sdsim.scenario import ClassSpec, PolicySpec, Scenario, policy_spec
from sdsim.scheduler import Scheduler, load
from sdsim.truth import LatentTruth
from sdsim.verification import DraftDepths
from sdsim.workload import class_names, requests

__all__ = ["DEFAULT_LENGTHS", "System", "make_policy", "make_system", "replace_policy", "simulate"]

DEFAULT_LENGTHS = tuple(range(9))
PREFILLING = PolicySpec(kind="fixed", parameters={"length": 0})
"""What replicas do that hand their requests on before any decoding: they keep the drafter's KV in step."""
REMEMBERED = 50_000
"""Step sizes whose distinct experts are kept."""


def make_policy(spec: PolicySpec, system: System) -> Policy:
    """Return a fresh policy that prices its steps on *system*, an oracle by what they take."""
    oracle = "truth" in getattr(policy_class(spec.kind), "needs", ())
    return get_policy(spec.kind, spec.parameters, system.prices if oracle else system.believed)


def simulate(
    scenario: Scenario,
    policy: PolicySpec | str | Mapping[str, Any] | None = None,
    seed: int | None = None,
    engine: str | None = None,
    progress: Callable[[float], None] | None = None,
    system: System | None = None,
) -> Result:
    """Run *scenario* once and return its result.

    *policy*, which a name or a mapping may give as in a scenario, and *engine* default to the scenario's first, *seed*
    to its own. *progress* is called with the simulated
    time now and then. Raises SdsimError for what a user can mend.
    """
    chosen = scenario.policies[0] if policy is None else policy_spec(policy, "policy")
    seed = scenario.seed if seed is None else seed
    engine = engine or scenario.engines[0]
    system = system or make_system(scenario, engine)
    load()
    run = _Run(scenario, chosen, seed, system, engine)
    started = time.perf_counter()
    with _older_objects_set_aside():
        simulated_s = run.engine(progress).run(scenario.until)
    wall_s = time.perf_counter() - started
    return run.result(engine, simulated_s, wall_s)


@contextmanager
def _older_objects_set_aside() -> Iterator[None]:
    """Spare what exists already the garbage collections of a run: to walk over it again took a fifth of the time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Run:
    """The parts of one run, kept together while it is built and read out."""

    def __init__(self, scenario: Scenario, spec: PolicySpec, seed: int, system: System, engine: str) -> None:
        self.scenario, self.seed, self.system, self.engine_name = scenario, seed, system, engine
        self.class_names = class_names(scenario.workload)
        law = make_acceptance(scenario.acceptance, seed, self.class_names) if scenario.acceptance else None
        known = MAX_DRAFT_LENGTH if law is None else law.longest
        self.spec = spec = spec.within(known)
        self.requests = RequestTable()
        self.recorder = Recorder(self.requests)
        first = make_policy(spec, system)
        self.label = label(first, spec.kind)
        self.loads_drafter = bool(getattr(first, "loads_drafter", True))
        if self.loads_drafter and system.draft is None:
            raise PolicyError(
                f"policy: {spec.kind} drafts, but the scenario has no draft; name one under `draft`, or use policy off"
            )
        lengths = getattr(first, "lengths", [length for length in DEFAULT_LENGTHS if length <= known])
        self.lengths = tuple(sorted({0, *lengths})) if self.loads_drafter else (0,)
        self.slo = slo_of(scenario.slo, scenario.classes, self.class_names)
        self.acceptance = self._covering(law) if law is not None and self.loads_drafter else None
        oracle = "truth" in getattr(first, "needs", ())
        self.truth = LatentTruth(self.acceptance) if oracle and self.acceptance else None
        available = system.draft.available if system.draft else 1.0
        drafting = [self._treated(name).speculate for name in self.class_names]
        self.depths = DraftDepths(self.requests, self.acceptance, available, np.array(drafting))
        self.priorities = np.array([self._treated(name).priority for name in self.class_names])
        self.distinct = lru_cache(REMEMBERED)(system.routing.distinct_uniform_rows)
        self.prefixes, self.ends = Prefixes(), Ends()
        self.pools = self._pools()
        self._check_budgets()
        self.replicas = [self._replica(i, pool) for i, pool in enumerate(self.pools)]

    def _treated(self, name: str) -> ClassSpec:
        return self.scenario.classes.get(name, ClassSpec())

    def _pools(self) -> list[Pool]:
        """Return the pool of each replica."""
        s = self.scenario
        drafts = self.lengths if self.loads_drafter else ()
        found = [Pool(s, self.system, self.spec, drafts)] * s.replicas
        for pool in s.pools:
            changes = {"gpus": pool.gpus, "replica": pool.replica, "calibration": pool.calibration}
            part = s.model_copy(update=changes)
            serves = pool.role == "serve"
            policy = self.spec if serves else PREFILLING if drafts else PolicySpec(kind="off")
            lengths = drafts if serves else drafts[:1]
            found += [Pool(part, make_system(part, self.engine_name), policy, lengths)] * pool.replicas
        return found

    def _check_budgets(self) -> None:
        for pool in dict.fromkeys(self.pools):
            given, budget = pool.scenario.replica.max_num_batched_tokens, pool.limits().max_num_batched_tokens
            if budget >= (needed := 1 + pool.lengths[-1]):
                continue
            kept = f" ({given - budget} of them are kept for the draft model's own)" if given > budget else ""
            message = (
                f"replica.max_num_batched_tokens: {given} tokens a step{kept}, but one row of policy {self.label} "
                f"verifies {needed}; allowed: {needed + given - budget} or more; raise it, or shorten the drafts"
            )
            raise CapacityError(message)

    def _covering(self, law: Acceptance) -> Acceptance:
        if self.lengths[-1] > law.longest:
            message = (
                f"policy: {self.label} drafts up to {self.lengths[-1]} tokens, but the acceptance law covers "
                f"{law.longest} positions; shorten the lengths or give the law more"
            )
            raise PolicyError(message)
        return law

    def _policy(self, index: int) -> Policy:
        pool = self.pools[index]
        policy = make_policy(pool.policy, pool.system)
        if self.truth is not None:
            policy.truth = self.truth  # type: ignore[attr-defined]
        if hasattr(policy, "watched_replica"):  # what watches a run is told whose steps it sees
            policy.watched_replica = index
        return policy

    def _scheduler(self, index: int, pool: Pool) -> Scheduler:
        if not self.scenario.is_fleet:
            return Scheduler(index, pool.limits(), self.requests, self.depths)
        reuses = pool.scenario.replica.prefix_cache
        cache = PrefixCache(self.prefixes, self.scenario.block_size) if reuses else None
        ranked = self.priorities if self.priorities.any() else None
        return ReusingScheduler(index, pool.limits(), self.requests, self.depths, cache, ranked)

    def _replica(self, index: int, pool: Pool) -> Replica:
        tpot = self.slo.tpot if self.slo else None
        rules = Rules(pool.lengths, pool.memory, tpot, self.scenario.feedback_lag)
        pipeline = pool.latency.pipeline() if pool.latency.works_ahead else None
        return Replica(
            index,
            self._scheduler(index, pool),
            self._policy(index),
            pipeline.seconds if pipeline else pool.latency.seconds,
            self.distinct,
            self.acceptance,
            self.recorder,
            rules,
            pipeline,
            self.ends.on(index) if self.scenario.is_fleet else None,
        )

    def engine(self, progress: Callable[[float], None] | None) -> Engine:
        """Return the event loop over the run's replicas and requests."""
        scenario = self.scenario
        arrivals = requests(scenario.workload, self.seed, scenario.until)
        think = getattr(scenario.workload, "think", None) if scenario.workload.kind == "closed" else None
        parts = (
            self.replicas,
            self._router(),
            arrivals if self.truth is None else self.truth.watched(arrivals),
            self.requests,
            self.depths,
            min(pool.longest_request() for pool in self.pools),
            think,
            progress,
        )
        if not scenario.is_fleet:
            return Engine(*parts)
        draft = self.system.draft if self.loads_drafter else None
        plan = fleet_plan(scenario, self.system.target, draft, self.prefixes)
        self.fleet = Fleet(
            *parts,
            plan=plan,
            decode_router=self._router(),
            ends=self.ends,
            recorder=self.recorder,
            new_policy=self._policy,
        )
        return self.fleet

    def _quality(self) -> dict[str, float]:
        """Return what the prices of all pools rest on."""
        latencies = list(dict.fromkeys(pool.latency for pool in self.pools))
        if len(latencies) == 1:
            return latencies[0].quality
        return shares([sum(times) for times in zip(*(latency.spent for latency in latencies), strict=True)])

    def _router(self) -> Router:
        spec, slo = self.scenario.router, self.slo
        targets = (slo.ttft, slo.tpot) if slo else (None, None)
        tokens = np.ones((len(self.class_names), len(self.lengths)))
        if self.acceptance is not None:
            tokens = self.acceptance.tokens_by_class(self.lengths)
        drafts = (self.lengths, tokens)
        return make_router(spec.kind, self.seed, self.system.prices, self.requests, targets, spec.refresh, drafts)

    def result(self, engine: str, simulated_s: float, wall_s: float) -> Result:
        """Return the run's records and summary; requests still on a replica are unfinished."""
        for replica in self.replicas:
            replica.record_unfinished()
        gpus: float = sum(pool.scenario.gpus.count for pool in self.pools)
        more: dict[str, Any] = {}
        if self.scenario.is_fleet:
            self.fleet.close(simulated_s)
            more = {"fleet": self.fleet.summary()}
            gpus = more["fleet"]["gpu_seconds"] / simulated_s if simulated_s else gpus
        table, steps = self.recorder.requests(), self.recorder.steps()
        gaps = self.recorder.irregular_gaps(self.scenario.warmup)
        summary: dict[str, Any] = {"policy": self.label, "engine": engine, "seed": self.seed}
        summary |= summarise(table, steps, gaps, self.slo, gpus, self.scenario.warmup)
        summary |= {
            "simulated_s": simulated_s,
            "wall_s": wall_s,
            "steps_per_wall_s": len(steps["step"]) / wall_s,
            "data_quality": self._quality(),
        }
        return Result(
            replace_policy(self.scenario, self.spec, self.seed, engine), summary | more, table, steps, self.class_names
        )


def replace_policy(scenario: Scenario, policy: PolicySpec, seed: int, engine: str) -> Scenario:
    """Return the scenario of one run: one policy, one seed, one engine."""
    return scenario.model_copy(update={"policies": (policy,), "seed": seed, "seeds": 1, "engines": (engine,)})
