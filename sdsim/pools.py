"""What replicas run on: models, prices and memory of each pool, and the plan of a fleet of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdsim.cluster import kv_blocks
from sdsim.drafts import Draft, make_draft
from sdsim.experts import Routing, make_routing
from sdsim.fleet import Autoscale, Failure, FleetPlan, Member
from sdsim.gpus import load_gpu
from sdsim.latency.calibrated import make_kernels
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.engine_overhead import EngineOverhead, load_engine
from sdsim.latency.prices import MisjudgedPrices, Prices
from sdsim.models import Model, load_model
from sdsim.prefix import Prefixes
from sdsim.replica import Memory
from sdsim.scenario import ROOFLINE, PolicySpec, Scenario
from sdsim.scheduler import Limits

if TYPE_CHECKING:
    from sdsim.latency.collectives import Collectives


@dataclass(frozen=True, slots=True)
class System:
    """What a scenario runs on, the same for every policy: models, prices and routing."""

    target: Model
    draft: Draft | None
    latency: Callable[..., ComposedLatency]
    """Makes a latency model with its own account of what its prices rest on; takes the longest draft, None where it is
    not known, and whether the engine is started with the drafter."""
    routing: Routing
    prices: Prices
    believed: Prices
    """What policies go by: the same, unless the scenario has a `price_error`."""
    engine: EngineOverhead


def make_system(scenario: Scenario, engine: str | None = None) -> System:
    """Return the models, latency model and routing law of *scenario* under *engine* (default: its first)."""
    target = load_model(scenario.model, scenario.folder)
    spec = scenario.draft
    draft = make_draft(spec.kind, target, spec.model, spec.available, scenario.folder) if spec else None
    overhead = load_engine(engine or scenario.engines[0], scenario.folder)
    kernels = make_kernels(load_gpu(scenario.gpus.name), scenario.calibration, overhead.kernels)
    collectives = make_collectives(scenario) if scenario.gpus.count > 1 else None

    def latency(longest: int | None = None, drafter: bool = True) -> ComposedLatency:
        rows, loaded = scenario.replica.max_num_seqs, draft if drafter else None
        return ComposedLatency(target, loaded, kernels, overhead, scenario.layout, collectives, rows, longest)

    knobs = scenario.routing.model_dump()
    routing = make_routing(target.experts, target.experts_per_token, **knobs)
    priced = latency(), routing, latency(drafter=False)
    prices = believed = Prices(*priced)
    if scenario.price_error:
        believed = MisjudgedPrices(*priced, scenario.price_error)
    return System(target, draft, latency, routing, prices, believed, overhead)


def make_collectives(scenario: Scenario) -> Collectives:
    """Return what the exchanges of a replica's GPUs cost."""
    from sdsim.latency import collectives

    gpu, measured = load_gpu(scenario.gpus.name), None
    if scenario.collectives is not None:
        measured = collectives.load_collectives(Path(scenario.collectives), gpu.name)
    elif scenario.calibration != ROOFLINE:
        measured = collectives.load_shipped_collectives(gpu.name)
    return collectives.make_collectives(gpu, scenario.gpus.count, scenario.network, measured)


def replica_blocks(scenario: Scenario, system: System, draft: Draft | None, longest: int) -> int:
    """Return the KV blocks of a replica that loads *draft* and verifies *longest* drafts a row."""
    s, r = scenario, scenario.replica
    memory = (r.memory_fraction, r.max_num_seqs, r.max_num_batched_tokens)
    taken = system.engine.memory_bytes
    return kv_blocks(system.target, draft, load_gpu(s.gpus.name), s.layout, *memory, longest, s.block_size, taken)


class Pool:
    """Replicas that are alike: what they run on, and the drafts that their policy may ask for."""

    def __init__(self, scenario: Scenario, system: System, policy: PolicySpec, lengths: tuple[int, ...]) -> None:
        """*lengths*: none where no drafter is loaded."""
        self.scenario, self.system, self.policy = scenario, system, policy
        self.loads_drafter, self.lengths = bool(lengths), lengths or (0,)
        self.memory = self._memory()
        self.latency = system.latency(self.lengths[-1], self.loads_drafter)

    def _memory(self) -> Memory:
        without = replica_blocks(self.scenario, self.system, None, 0)
        if not self.loads_drafter:
            return Memory(without, without)
        return Memory(replica_blocks(self.scenario, self.system, self.system.draft, self.lengths[-1]), without)

    def limits(self) -> Limits:
        """Return what a fresh replica can hold."""
        spec = self.scenario.replica
        blocks = self.memory.with_drafter if self.loads_drafter else self.memory.without_drafter
        kind = self.system.draft.kind if self.system.draft and self.loads_drafter else None
        budget = spec.max_num_batched_tokens - self.system.engine.added_positions(spec.max_num_seqs, kind)
        return Limits(spec.max_num_seqs, budget, blocks, self.scenario.block_size, self.lengths[-1])

    def longest_request(self) -> int:
        """Return the tokens of the longest request that a replica can ever hold."""
        blocks = min(self.memory.with_drafter, self.memory.without_drafter)
        most = blocks * self.scenario.block_size - 1 - self.lengths[-1]
        return min(most, self.system.target.max_positions)


def fleet_plan(scenario: Scenario, target: Model, draft: Draft | None, prefixes: Prefixes) -> FleetPlan:
    """Return what happens to the replicas of *scenario*; GPUs are numbered replica after replica."""
    own = [(scenario.gpus, False)] * scenario.replicas
    pooled = [(pool.gpus, pool.role == "prefill") for pool in scenario.pools for _ in range(pool.replicas)]
    members, start = [], 0
    for gpus, prefills in own + pooled:
        members.append(Member(range(start, start + gpus.count), prefills))
        start += gpus.count
    network = None
    if any(member.prefills for member in members):
        from sdsim.network import Network, load_network

        cards = [load_gpu(gpus.name) for gpus, _ in own + pooled for _ in range(gpus.count)]
        network = Network(cards, load_network(scenario.network))
    rule = scenario.autoscale
    scale = Autoscale(rule.min, scenario.replicas, rule.load, rule.every, rule.start) if rule else None
    failures = [Failure(f.replica, f.at, f.duration) for f in scenario.failures]
    kv = target.kv_bytes_per_token + (draft.kv_bytes_per_token if draft else 0.0)
    return FleetPlan(members, failures, scale, network, kv, prefixes)
