"""The parts of a scenario that make a fleet of its replicas: further pools, failures, autoscaling. Times in s."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, field_validator

from sdsim.parallel import Layout
from sdsim.scenario.fields import (
    Copies,
    Count,
    Name,
    PositiveNumber,
    PositiveSeconds,
    Seconds,
    Spec,
    ask,
    existing,
    folder,
    one_of,
)
from sdsim.scenario.parts import ReplicaSpec
from sdsim.units import COUNT, GpuCount, Span, parse_gpus, parse_whole

ROOFLINE = "roofline"
ROLES = ("serve", "prefill")


def _gpus(gpus: GpuCount) -> GpuCount:
    from sdsim.gpus import check_gpu_name

    ask(lambda: check_gpu_name(gpus.name))
    return gpus


def _calibration(name: str, info: ValidationInfo) -> str:
    from sdsim.latency.calibrated import check_calibration

    if name == ROOFLINE:
        return name
    name, gpus = str(existing(name, info) or name), info.data.get("gpus")
    if gpus is not None:
        ask(lambda: check_calibration(name, folder(info), gpus.name))
    return name


def check_layout(gpus: GpuCount, replica: ReplicaSpec) -> None:
    """Raise ValueError where *gpus* cannot be laid out as *replica* says."""
    tensor, expert = replica.tensor_parallel, replica.expert_parallel
    if gpus.count != max(tensor, expert):
        allowed = f"allowed: {max(tensor, expert)}, the larger of replica.tensor_parallel {tensor}"
        change = f"write {max(tensor, expert)} x {gpus.name}, or set replica.tensor_parallel to {gpus.count}"
        raise ValueError(f"found {gpus}; {allowed} and replica.expert_parallel {expert}; {change}")
    if expert not in (1, gpus.count) or gpus.count % tensor:
        found = f"found {gpus} with replica.expert_parallel {expert} and replica.tensor_parallel {tensor}"
        allowed = f"allowed: expert_parallel 1 or {gpus.count}, and a tensor_parallel that divides {gpus.count}"
        raise ValueError(f"{found}; {allowed}; change one of them")


def layout(gpus: GpuCount, replica: ReplicaSpec) -> Layout:
    """Return how a replica's GPUs share the model."""
    return Layout(gpus.count, replica.tensor_parallel, replica.expert_parallel > 1)


Gpus = Annotated[GpuCount, AfterValidator(_gpus), BeforeValidator(parse_gpus), PlainSerializer(str)]
Calibration = Annotated[Name, AfterValidator(_calibration)]


class PoolSpec(Spec):
    """Replicas beside the scenario's own: of other GPUs, or such that compute prompts for the others."""

    role: Annotated[Literal["serve", "prefill"], BeforeValidator(partial(one_of, "role", ROLES))] = "serve"
    replica: ReplicaSpec = ReplicaSpec()
    gpus: Gpus
    replicas: Copies = 1
    calibration: Calibration | None = None

    @field_validator("gpus")
    @classmethod
    def _check_gpus(cls, gpus: GpuCount, info: ValidationInfo) -> GpuCount:
        replica = info.data.get("replica")
        if isinstance(replica, ReplicaSpec):
            check_layout(gpus, replica)
        return gpus


class FailureSpec(Spec):
    """A replica, counted from 0 through the scenario's own and then the pools', that loses everything `at` a time."""

    replica: Annotated[int, BeforeValidator(partial(parse_whole, span=Span(0, COUNT.high)))]
    at: Seconds
    duration: PositiveSeconds | None = Field(default=None, alias="for")
    """Until it is back; None: never."""


class AutoscaleSpec(Spec):
    """How many of the scenario's own replicas are switched on; looked at every so often."""

    min: Count = 1
    load: PositiveNumber
    """Requests for which one replica is wanted."""
    every: PositiveSeconds = 10.0
    start: Seconds = 60.0
    """From the decision until a replica takes requests."""
