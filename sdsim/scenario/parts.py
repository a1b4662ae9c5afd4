"""The parts of a scenario: draft, replica, policy, SLO, acceptance and routing. Times in s."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from sdsim.scenario.fields import (
    Count,
    Name,
    NonNegativeNumber,
    Part,
    PositiveNumber,
    PositiveSeconds,
    Seconds,
    Share,
    Spec,
    ask,
    existing,
    filled,
    folder,
    kind_word,
    one_of,
    plain,
)
from sdsim.units import COUNT, Span, parse_number, parse_whole, shown

ROUTERS = ("least_loaded", "mix_aware", "power_of_two", "prefix_aware", "round_robin", "shortest_queue", "slo_feasible")
DraftKind = Literal["model", "eagle3", "mtp", "ngram"]
DRAFT_KINDS: tuple[DraftKind, ...] = get_args(DraftKind)
FIXED = re.compile(r"fixed-(\d{1,4})", re.ASCII)
"""What results call a fixed policy."""
AUC = Span(0.5, 1, open_high=True)


class DraftSpec(Spec):
    """What drafts. `available` is the share of positions at which an n-gram drafter finds a draft."""

    kind: Annotated[DraftKind, BeforeValidator(partial(one_of, "draft kind", DRAFT_KINDS))]
    model: Name | None = Field(default=None, validate_default=True)
    available: Part = 1.0

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind", "model" if model else "mtp")
        if (model is None) == (kind != "model"):
            return None if model is None else model_name(model, info, draft=True)
        if model is None:
            raise ValueError("missing; required with kind model; add it, such as model: qwen2-0.5b")
        raise ValueError(f"found {shown(model)}; allowed with kind model only; remove it, or set kind: model")

    @field_validator("available")
    @classmethod
    def _check_available(cls, available: float, info: ValidationInfo) -> float:
        if available < 1 and info.data.get("kind", "ngram") != "ngram":
            raise ValueError(f"found {available:g}; allowed with kind ngram only; remove it, or set kind: ngram")
        return available


def model_name(model: str, info: ValidationInfo, draft: bool = False) -> str:
    """Return *model*, the name of a model, or the absolute path of its config.json."""
    from sdsim.models import check_draft_name, check_model_name, model_names

    ask(lambda: (check_draft_name if draft else check_model_name)(model, folder(info)))
    if model.strip().lower() in model_names():
        return model
    return str(existing(model, info) or model)


class ReplicaSpec(Spec):
    """How one replica is laid out, and the limits of its scheduler."""

    tensor_parallel: Count = 1
    expert_parallel: Count = 1
    max_num_seqs: Count = 256
    max_num_batched_tokens: Count = 8192
    memory_fraction: Part = 0.95
    prefix_cache: bool = False
    """Whether prompts reuse the KV of equal prefixes, where the workload knows them: sessions, Mooncake traces."""


class RouterSpec(Spec):
    """Which replica a request goes to; with `refresh`, by what the replicas reported at its last multiple."""

    kind: Annotated[str, BeforeValidator(partial(one_of, "router", ROUTERS))] = "least_loaded"
    refresh: Seconds = 0.0


def policy_kind(kind: str, info: ValidationInfo) -> str:
    """Return *kind*, the name of a policy, or `module:Class`; of path.py:Class the path is made absolute."""
    module, _, name = kind.rpartition(":")
    if not module.endswith(".py"):
        return kind
    return f"{existing(module, info) or module}:{name}"


class PolicySpec(Spec):
    """A speculation policy and its constructor's parameters. Written flat, {kind: fixed, length: 3}; or fixed-3."""

    kind: Annotated[Name, AfterValidator(policy_kind)]
    parameters: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: object) -> object:
        if isinstance(data, str) and (fixed := FIXED.fullmatch(data)):
            return {"kind": "fixed", "parameters": {"length": int(fixed[1])}}
        if data is False or isinstance(data, str):
            return {"kind": data or "off"}
        if isinstance(data, PolicySpec):
            return data
        if not isinstance(data, Mapping):
            raise ValueError(
                f"found {shown(data)}; allowed: a policy's name or a mapping; write {{kind: fixed, length: 3}}"
            )
        rest = {key: value for key, value in data.items() if key not in ("kind", "parameters")}
        given = data.get("parameters", {})
        parameters = (
            {key: plain(value) for key, value in {**given, **rest}.items()} if isinstance(given, Mapping) else given
        )
        kind = {"kind": "off" if data["kind"] is False else data["kind"]} if "kind" in data else {}
        return {**kind, "parameters": parameters}

    @model_validator(mode="after")
    def _check(self) -> PolicySpec:
        from sdsim.policies import check_parameters

        ask(lambda: check_parameters(self.kind, self.parameters))
        return self

    @property
    def drafts(self) -> bool:
        """Whether it may draft a token."""
        return self.kind != "off" and (self.kind, self.parameters.get("length")) != ("fixed", 0)

    def within(self, longest: int) -> PolicySpec:
        """Return this policy, with drafts of at most *longest* tokens if it left its lengths to be the usual ones."""
        from sdsim.policies import usual_lengths

        usual = usual_lengths(self.kind)
        if "lengths" in self.parameters or max(usual, default=0) <= longest:
            return self
        lengths = [length for length in usual if length <= longest]
        return self.model_copy(update={"parameters": {**self.parameters, "lengths": lengths}})

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.parameters}


class Slo(Spec):
    """Targets of one request, s; a request meets the SLO if it meets all that are set."""

    ttft: PositiveSeconds | None = None
    tpot: PositiveSeconds | None = None
    e2e: PositiveSeconds | None = None


class ClassSpec(Spec):
    """How requests of one class are treated: targets in place of the scenario's, priority, and whether they draft."""

    slo: Slo | None = None
    priority: Annotated[int, BeforeValidator(partial(parse_whole, span=Span(0, COUNT.high)))] = 0
    """Those of a higher one are admitted first."""
    speculate: bool = True


class AcceptanceSpec(Spec):
    """What all laws of acceptance share: `auc`, the quality of the drafter's confidence, if it has one."""

    kind: str
    auc: Annotated[float, BeforeValidator(partial(parse_number, span=AUC))] | None = None


class IidAcceptance(AcceptanceSpec):
    """The same conditional acceptance at every position."""

    kind: Literal["iid"] = "iid"
    rate: Share


class PositionsAcceptance(AcceptanceSpec):
    """Unconditional acceptance per position of the draft: the chance that it and all before it are accepted."""

    kind: Literal["positions"] = "positions"
    rates: Annotated[tuple[Share, ...], BeforeValidator(filled)]

    @field_validator("rates")
    @classmethod
    def _check_rates(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        for before, rate in pairwise(rates):
            if rate > before:
                found = f"found {rate:g} after {before:g}"
                raise ValueError(f"{found}; allowed: rates that never rise; give each position's unconditional rate")
        return rates


class ProfileAcceptance(AcceptanceSpec):
    """Measured acceptance lengths that ship with sdsim."""

    kind: Literal["profile"] = "profile"
    name: Name

    @field_validator("name")
    @classmethod
    def _check_name(cls, profile: str) -> str:
        from sdsim.acceptance import profile_names

        return one_of("acceptance profile", profile_names(), profile)


class DriftAcceptance(AcceptanceSpec):
    """Acceptance that changes: each of `rates` in turn for `every` requests, in order of arrival, again and again."""

    kind: Literal["drift"] = "drift"
    rates: Annotated[tuple[Share, ...], BeforeValidator(filled)]
    every: Count


class MixtureClass(Spec):
    """One class of requests: its weight, its mean acceptance, and the sd of the acceptance between requests."""

    weight: PositiveNumber = 1.0
    rate: Share
    spread: NonNegativeNumber = 0.0


class MixtureAcceptance(AcceptanceSpec):
    """Classes of requests with acceptances of their own."""

    kind: Literal["mixture"] = "mixture"
    classes: Annotated[dict[Name, MixtureClass], BeforeValidator(filled)]


Acceptance = Annotated[
    Annotated[
        IidAcceptance | PositionsAcceptance | ProfileAcceptance | DriftAcceptance | MixtureAcceptance,
        Field(discriminator="kind"),
    ],
    BeforeValidator(kind_word),
]


class UniformRouting(Spec):
    """Tokens choose experts independently, all experts equally often."""

    kind: Literal["uniform"] = "uniform"


class CorrelatedRouting(Spec):
    """Tokens agree: effective tokens per token, within a request and between requests; 1 is independence."""

    kind: Literal["correlated"] = "correlated"
    within: Part = 1.0
    between: Part = 1.0


class SkewedRouting(Spec):
    """Independent tokens; the r-th expert is chosen in proportion to r^-alpha."""

    kind: Literal["skewed"] = "skewed"
    alpha: NonNegativeNumber


Routing = Annotated[
    Annotated[UniformRouting | CorrelatedRouting | SkewedRouting, Field(discriminator="kind")],
    BeforeValidator(kind_word),
]
