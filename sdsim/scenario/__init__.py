"""A scenario: what is served, on what, under which traffic, and the policies to compare.

`load_scenario` reads one from YAML and reports every mistake at once, a line each, as `file:line: key: what was found;
what is allowed; what to do`. Rules between keys are checked as soon as the keys themselves are right, so a field stands
behind those that its check needs. Times are in s and rates in 1/s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from sdsim.errors import ScenarioError, unknown
from sdsim.parallel import Layout
from sdsim.scenario.fields import (
    Copies,
    Count,
    Name,
    PositiveSeconds,
    Seconds,
    Spec,
    ask,
    existing,
    folder,
    kind_word,
    listed,
)
from sdsim.scenario.file import Source, read_scenario
from sdsim.scenario.fleet import (
    ROOFLINE,
    AutoscaleSpec,
    Calibration,
    FailureSpec,
    Gpus,
    PoolSpec,
    check_layout,
    layout,
)
from sdsim.scenario.parts import (
    Acceptance,
    ClassSpec,
    DraftSpec,
    PolicySpec,
    ReplicaSpec,
    RouterSpec,
    Routing,
    Slo,
    UniformRouting,
    model_name,
)
from sdsim.scenario.problems import problems
from sdsim.scenario.workload import Workload, WorkloadSpec
from sdsim.units import COUNT, GpuCount, Span, parse_number, parse_whole, shown

__all__ = [
    "ROOFLINE",
    "ClassSpec",
    "DraftSpec",
    "PolicySpec",
    "ReplicaSpec",
    "Scenario",
    "Slo",
    "load_scenario",
    "policy_spec",
    "scenario_from_mapping",
]


def _draft(value: object) -> object:
    word = value.get("kind") if isinstance(value, Mapping) and len(value) == 1 else value
    return None if word is False or word == "none" else kind_word(value)


def _engine(name: str, info: ValidationInfo) -> str:
    from sdsim.latency.engine_overhead import engine_names, load_engine

    if name not in engine_names() and name.endswith(".json"):
        name = str(existing(name, info) or name)
    ask(lambda: load_engine(name, folder(info)))
    return name


def _network(name: str) -> str:
    from sdsim.network.presets import check_network_name

    ask(lambda: check_network_name(name))
    return name


def _collectives(name: str, info: ValidationInfo) -> str:
    from sdsim.latency.collectives import check_collectives

    name, gpus = str(existing(name, info) or name), info.data.get("gpus")
    if gpus is not None:
        ask(lambda: check_collectives(name, folder(info), gpus.name))
    return name


PRICE_ERROR = Span(-1, open_low=True)
DEFAULT_CLASS = "default"
"""Of requests whose workload names none."""


class Scenario(Spec):
    """One scenario. Two are equal if they ask for the same runs, wherever they were read from."""

    model: Annotated[Name, AfterValidator(model_name)]
    draft: Annotated[DraftSpec | None, BeforeValidator(_draft)] = None
    replica: ReplicaSpec = ReplicaSpec()
    gpus: Gpus
    """The GPUs of one replica."""
    replicas: Copies = 1
    pools: tuple[PoolSpec, ...] = ()
    """Replicas beside these."""
    failures: tuple[FailureSpec, ...] = ()
    autoscale: AutoscaleSpec | None = None
    router: Annotated[RouterSpec, BeforeValidator(kind_word)] = RouterSpec()
    engines: Annotated[tuple[Annotated[Name, AfterValidator(_engine)], ...], BeforeValidator(listed)] = Field(
        default=("ideal",), alias="engine"
    )
    until: PositiveSeconds | None = None
    """When the clock stops; None: when the last request is done."""
    calibration: Calibration | None = None
    """A file that profile_gpu wrote, or `roofline`; None: the one shipped for the GPU, else the roofline."""
    network: Annotated[Name, AfterValidator(_network)] = "hgx"
    """How the GPUs are joined, a name in data/networks.yaml."""
    collectives: Annotated[Name, AfterValidator(_collectives)] | None = None
    """A file that hardware.collectives wrote; None: the one shipped for the GPU, else what the links imply."""
    workload: Workload
    classes: dict[Name, ClassSpec] = Field(default_factory=dict)
    """How some of the workload's classes are treated."""
    policies: Annotated[tuple[PolicySpec, ...], BeforeValidator(listed)] = Field(
        default_factory=lambda: (PolicySpec(kind="off"),), alias="policy"
    )
    acceptance: Acceptance | None = Field(default=None, validate_default=True)
    routing: Routing = UniformRouting()
    slo: Slo | None = None
    seed: Annotated[int, BeforeValidator(partial(parse_whole, span=Span(0, 2**63 - 1)))] = 0
    seeds: Copies = 1
    """How many seeds are run, from `seed` up."""
    feedback_lag: Annotated[int, BeforeValidator(partial(parse_whole, span=Span(0, COUNT.high)))] = 1
    """Steps after which a policy learns of an outcome."""
    price_error: Annotated[float, BeforeValidator(partial(parse_number, span=PRICE_ERROR))] = 0.0
    """Share by which policies take what drafting and verifying adds to a step for more than it is."""
    warmup: Seconds = 0.0
    """Requests that arrive before it are left out of the metrics."""
    block_size: Count = 16
    """Tokens of a KV block."""

    _name: str = PrivateAttr("scenario")
    _folder: Path = PrivateAttr(Path())

    def model_post_init(self, context: Any) -> None:
        """Keep where the scenario came from."""
        self._name = (context or {}).get("name", "scenario")
        self._folder = (context or {}).get("folder", Path())

    @property
    def name(self) -> str:
        """The stem of the scenario's file."""
        return self._name

    @property
    def folder(self) -> Path:
        """The folder of the scenario's file."""
        return self._folder

    @property
    def layout(self) -> Layout:
        """How a replica's GPUs share the model."""
        return layout(self.gpus, self.replica)

    @property
    def is_fleet(self) -> bool:
        """Whether more happens between replicas than that requests are sent to them."""
        reuses = any(replica.prefix_cache for replica in (self.replica, *(pool.replica for pool in self.pools)))
        ranked = any(spec.priority for spec in self.classes.values())
        return bool(
            ranked or self.pools or self.failures or self.autoscale or reuses or self.workload.kind == "sessions"
        )

    @field_validator("gpus")
    @classmethod
    def _check_gpus(cls, gpus: GpuCount, info: ValidationInfo) -> GpuCount:
        replica = info.data.get("replica")
        if isinstance(replica, ReplicaSpec):
            check_layout(gpus, replica)
        return gpus

    @field_validator("workload")
    @classmethod
    def _check_workload(cls, workload: WorkloadSpec, info: ValidationInfo) -> WorkloadSpec:
        endless = workload.kind != "trace" and workload.limit is None
        if endless and "until" in info.data and info.data["until"] is None:
            found = f"found kind {workload.kind}, which never ends"
            raise ValueError(f"{found}; allowed: with workload.limit or until; add limit: 10000 to it, or until: 20min")
        return workload

    @field_validator("failures")
    @classmethod
    def _check_failures(cls, failures: tuple[FailureSpec, ...], info: ValidationInfo) -> tuple[FailureSpec, ...]:
        count = info.data.get("replicas", 0) + sum(pool.replicas for pool in info.data.get("pools", ()))
        wrong = [failure.replica for failure in failures if failure.replica >= count]
        if wrong and "replicas" in info.data and "pools" in info.data:
            raise ValueError(f"found replica {wrong[0]}; allowed: 0 to {count - 1}; name one that there is")
        return failures

    @field_validator("autoscale")
    @classmethod
    def _check_autoscale(cls, rule: AutoscaleSpec | None, info: ValidationInfo) -> AutoscaleSpec | None:
        most = info.data.get("replicas")
        if rule is not None and most is not None and rule.min > most:
            raise ValueError(f"found min {rule.min}; allowed: 1 to replicas, {most}; lower it, or raise replicas")
        return rule

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: dict[str, ClassSpec], info: ValidationInfo) -> dict[str, ClassSpec]:
        workload = info.data.get("workload")
        if isinstance(workload, WorkloadSpec) and workload.kind != "trace":
            names = workload.class_names or (DEFAULT_CLASS,)
            for name in classes:
                if name not in names:
                    raise ValueError(unknown("class", name, names))
        return classes

    @field_validator("policies")
    @classmethod
    def _check_policies(cls, policies: tuple[PolicySpec, ...], info: ValidationInfo) -> tuple[PolicySpec, ...]:
        drafting = [policy.kind for policy in policies if policy.kind != "off"]
        if drafting and "draft" in info.data and info.data["draft"] is None:
            found = f"found {shown(drafting[0])} without a draft"
            raise ValueError(f"{found}; allowed: off; add a draft, such as draft: eagle3, or set policy: off")
        return policies

    @field_validator("acceptance")
    @classmethod
    def _check_acceptance(cls, acceptance: Any, info: ValidationInfo) -> Any:
        if acceptance is not None:
            from sdsim.acceptance import make_acceptance

            workload = info.data.get("workload")
            classes = workload.class_names if isinstance(workload, WorkloadSpec) else ()
            ask(lambda: make_acceptance(acceptance, 0, classes))
        elif info.data.get("draft") is not None and any(p.drafts for p in info.data.get("policies", ())):
            raise ValueError("missing; required since a policy drafts; add it, such as {kind: iid, rate: 0.8}")
        return acceptance

    def resolved(self) -> dict[str, Any]:
        """Return the scenario with every default written out, as plain values that load to an equal scenario."""
        return self.model_dump(mode="json", by_alias=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scenario) and self.resolved() == other.resolved()

    __hash__ = None  # type: ignore[assignment]


def policy_spec(word: object, place: str) -> PolicySpec:
    """Return the policy that *word* names, with its parameters if it is a mapping; raise ScenarioError at *place*."""
    try:
        return PolicySpec.model_validate(word)
    except ValidationError as error:
        problems = (str(one["msg"]).removeprefix("Value error, ") for one in error.errors())
        raise ScenarioError(*(f"{place}: {problem}" for problem in problems)) from None


def load_scenario(path: str | os.PathLike[str], overrides: Sequence[str] = (), allow_code: bool = False) -> Scenario:
    """Return the scenario in the YAML file at *path*, with *overrides* (`key.sub=value`) carried out in turn.

    Relative paths start from the file's folder; where nothing is there, from the working directory. Policies that the
    file itself names as module:Class are run with *allow_code* only. Raises ScenarioError with one line a mistake.
    """
    file = Path(path)
    return validated(read_scenario(file, overrides), file.absolute().parent, file.stem, allow_code)


def scenario_from_mapping(
    mapping: Mapping[str, Any], folder: Path = Path(), name: str = "scenario", allow_code: bool = True
) -> Scenario:
    """Return the scenario that *mapping* describes, with the keys of a scenario file; paths start from *folder*.

    A mapping is the caller's own, so policies of it may be a module:Class; if it is not, set *allow_code* to False.
    """
    return validated(Source(name, mapping), Path(folder).absolute(), name, allow_code)


def validated(source: Source, folder: Path, name: str, allow_code: bool) -> Scenario:
    """Return the scenario in *source*, whose relative paths start from *folder*; raise ScenarioError for mistakes."""
    scenario = None
    if not isinstance(source.data, Mapping):
        found = "nothing in it" if source.data is None else f"found {shown(source.data)}"
        source.complain((), f"{found}; allowed: a mapping with model, gpus and workload at least; write key: value")
    else:
        try:
            if not allow_code:
                source.refuse_code()
            scenario = Scenario.model_validate(source.data, context={"folder": folder, "name": name})
        except ValidationError as error:
            for path, message in problems(error, Scenario, source.data):
                source.complain(path, message)
        except RecursionError:
            source.complain((), "nested too deeply; allowed: a few levels; flatten it")
    source.refuse()
    assert scenario is not None
    return scenario
