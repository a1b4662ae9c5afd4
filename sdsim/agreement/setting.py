"""What a measurement was made on, as a scenario and as the system that prices it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdsim.gpus import load_gpu
from sdsim.latency.calibrated import make_kernels
from sdsim.latency.composition import ComposedLatency
from sdsim.latency.prices import Prices
from sdsim.measurements.record import DRAFT_WORDS, Record, shipped_config
from sdsim.scenario import Scenario, scenario_from_mapping
from sdsim.simulation import System, make_system

GPU, ENGINE = "h200", "vllm-0.22.1"
"""What a record was measured on if it does not say."""
SMALL_VOCABULARY_DRAFT, DRAFT = "tiny-mistral", "qwen2-0.5b"


def usual_draft(model: str) -> str:
    """Return the draft that *model* is measured with where none is named: one that has its vocabulary."""
    return SMALL_VOCABULARY_DRAFT if model.startswith("mixtral") else DRAFT


@dataclass(frozen=True)
class Setting:
    """How records are to be predicted; None leaves it to each record."""

    folder: Path = Path()
    """Where relative paths in the records start."""
    engine: str | None = None
    gpu: str | None = None
    draft: str | None = None
    calibration: str | None = None
    leave_out: bool = False
    """Whether each target is priced as if it had not been calibrated."""

    def engine_of(self, record: Record) -> str:
        """Return the engine's name: `vllm-0.22.1` for the record's `vllm 0.22.1`."""
        return self.engine or "-".join((record.engine or ENGINE).lower().split())

    def engine_label(self, record: Record) -> str:
        """Return the engine's name in tables: of a file, what it is called."""
        return self.engine_of(record).rpartition("/")[2].removesuffix(".json")

    def gpu_of(self, record: Record) -> str:
        """Return the GPU's name."""
        return self.gpu or record.gpu or GPU

    def draft_alias(self, record: Record) -> str | None:
        """Return the draft's name in tables; None without one."""
        if not record.draft_length:
            return None
        return record.draft or self.draft or usual_draft(record.model)

    def draft_of(self, record: Record) -> str | None:
        """Return what a scenario calls the draft: its name, or the path of its config; None without one."""
        alias = self.draft_alias(record)
        return None if alias is None else record.draft_config or shipped_config(alias) or alias

    def scenario(self, record: Record, max_num_seqs: int, workload: Mapping[str, Any], name: str) -> Scenario:
        """Return the scenario that *record* was measured in. Raises ScenarioError for names nobody knows."""
        draft, length = self.draft_of(record), record.draft_length
        mapping: dict[str, Any] = {
            "model": record.target_name(),
            "gpus": f"1 x {self.gpu_of(record)}",
            "engine": self.engine_of(record),
            "calibration": self.calibration,
            "block_size": record.block_size,
            "workload": dict(workload),
            "replica": {
                "max_num_seqs": max_num_seqs,
                "max_num_batched_tokens": record.max_num_batched_tokens,
                "memory_fraction": record.memory_fraction,
            },
        }
        if draft is not None:
            mapping["draft"] = draft if draft in DRAFT_WORDS else {"kind": "model", "model": draft}
            mapping["acceptance"] = {"kind": "iid", "rate": record.alpha}
            mapping["policy"] = {"kind": "fixed", "length": length}
        return scenario_from_mapping(mapping, self.folder, name)

    def system(self, scenario: Scenario, record: Record) -> System:
        """Return the system that prices *scenario* under the engine's limits in *record*.

        The largest captured size that a record names replaces the engine's; `ideal` captures every size as it is.
        """
        made = make_system(scenario)
        plain = made.latency()
        engine, kernels = plain.engine, plain.kernels
        if engine.capture_limit and record.capture_sizes:
            engine = replace(engine, capture_limit=record.capture_sizes[-1])
        if self.leave_out:
            gpu = load_gpu(scenario.gpus.name)
            kernels = make_kernels(gpu, scenario.calibration, engine.kernels, unseen=made.target)

        def latency(longest: int | None = None, drafter: bool = True) -> ComposedLatency:
            rows, draft = scenario.replica.max_num_seqs, made.draft if drafter else None
            return ComposedLatency(made.target, draft, kernels, engine, plain.layout, plain.collectives, rows, longest)

        return replace(made, latency=latency, prices=Prices(latency(), made.routing, latency(drafter=False)))
