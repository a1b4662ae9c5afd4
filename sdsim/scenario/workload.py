"""The workload of a scenario: how requests arrive and their lengths. Times in s, rates in 1/s, lengths in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from sdsim.errors import unknown
from sdsim.scenario.fields import (
    Count,
    Name,
    NonNegativeNumber,
    PositiveNumber,
    PositiveSeconds,
    Rate,
    RateOrZero,
    Seconds,
    Spec,
    existing,
    folder,
    kind_word,
    name,
    one_of,
)
from sdsim.units import COUNT, Span, parse_number, parse_whole, shown

TraceFormat = Literal["azure", "mooncake", "servegen", "burstgpt", "jsonl"]
TRACE_FORMATS: tuple[TraceFormat, ...] = get_args(TraceFormat)
DUTY = Span(0, 1, open_low=True, open_high=True)


class Lognormal(Spec):
    """A lognormal length: its mean, and the sigma of its natural logarithm."""

    mean: PositiveNumber
    sigma: NonNegativeNumber

    def __float__(self) -> float:
        return self.mean


def tokens(value: object) -> object:
    """Return *value*, a length that all requests have or the law of one."""
    if isinstance(value, Mapping):
        return Lognormal.model_validate(value)
    return value if isinstance(value, Lognormal) else parse_whole(value, COUNT)


Tokens = Annotated[int | Lognormal, BeforeValidator(tokens)]


class Lengths(Spec):
    """Prompt and output lengths, each fixed or lognormal."""

    prompt: Tokens
    output: Tokens

    @property
    def prompt_sigma(self) -> float:
        """Sigma of the prompts' logarithm; 0 when fixed."""
        return self.prompt.sigma if isinstance(self.prompt, Lognormal) else 0.0

    @property
    def output_sigma(self) -> float:
        """Sigma of the outputs' logarithm; 0 when fixed."""
        return self.output.sigma if isinstance(self.output, Lognormal) else 0.0


def lengths(value: object) -> object:
    """Return *value*, the name of a length table or `Lengths`."""
    if isinstance(value, Mapping):
        return Lengths.model_validate(value)
    if isinstance(value, Lengths):
        return value
    from sdsim.lengths import length_tables

    own = "or give {prompt: 500, output: 200}"
    if not isinstance(value, str):
        raise ValueError(
            f"found {shown(value)}; allowed: a length table ({', '.join(length_tables())}); name one, {own}"
        )
    if value not in length_tables():
        raise ValueError(f"{unknown('length table', value[:60], length_tables())}; {own}")
    return value


LengthsSpec = Annotated[str | Lengths, BeforeValidator(lengths)]


class RequestClass(Spec):
    """A class of requests: its share, relative to the others', and lengths of its own if it has any."""

    share: PositiveNumber
    lengths: LengthsSpec | None = None


class WorkloadSpec(Spec):
    """What all workloads share: they end after `limit` requests, if it is set."""

    kind: str
    limit: Count | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the scenario gives its requests; a trace's own are not known before it is read."""
        return ()


class SyntheticWorkload(WorkloadSpec):
    """Requests that are drawn: their lengths, and their classes if there are any."""

    lengths: LengthsSpec
    classes: dict[Name, RequestClass] = Field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the scenario gives its requests."""
        return tuple(self.classes)


class PoissonWorkload(SyntheticWorkload):
    """Independent arrivals."""

    kind: Literal["poisson"] = "poisson"
    rate: Rate


class BurstyWorkload(SyntheticWorkload):
    """`peak` for the share `duty` of each `period`, `rate` for the rest."""

    kind: Literal["bursty"] = "bursty"
    rate: RateOrZero
    peak: Rate
    period: PositiveSeconds
    duty: Annotated[float, BeforeValidator(partial(parse_number, span=DUTY))] = 0.2


class MmppWorkload(SyntheticWorkload):
    """`rate` and `peak` in turn, for exponential times of the means `mean_low` and `mean_high`."""

    kind: Literal["mmpp"] = "mmpp"
    rate: RateOrZero
    peak: Rate
    mean_low: PositiveSeconds
    mean_high: PositiveSeconds


class DiurnalWorkload(SyntheticWorkload):
    """A sinusoid between `rate` and `peak`."""

    kind: Literal["diurnal"] = "diurnal"
    rate: RateOrZero
    peak: Rate
    period: PositiveSeconds = 86400.0


class ClosedWorkload(SyntheticWorkload):
    """`concurrency` clients, each of which waits `think` after an answer and then asks again."""

    kind: Literal["closed"] = "closed"
    concurrency: Count
    think: Seconds = 0.0


class SessionsWorkload(WorkloadSpec):
    """Conversations that begin at `rate`, of `turns` turns in the mean, `think` s in the mean after each answer.

    `lengths` are what a turn adds to the prompt, and its answer. A session ends before a turn of more than `context`
    tokens, prompt and answer.
    """

    kind: Literal["sessions"] = "sessions"
    rate: Rate
    turns: Annotated[float, BeforeValidator(partial(parse_number, span=Span(1)))]
    think: Seconds
    lengths: LengthsSpec
    context: Count | None = None


class Clip(Spec):
    """The longest prompt and output; longer ones are shortened."""

    prompt: Count | None = None
    output: Count | None = None


class TraceWorkload(WorkloadSpec):
    """Recorded requests. `rate` rescales the gaps to that mean; `lengths` fills in what a servegen folder lacks."""

    kind: Literal["trace"] = "trace"
    format: Annotated[TraceFormat, BeforeValidator(partial(one_of, "trace format", TRACE_FORMATS))]
    path: Path
    rate: Rate | None = None
    clip: Clip | None = None
    lengths: LengthsSpec | None = None

    @field_validator("path", mode="before")
    @classmethod
    def _find(cls, path: object, info: ValidationInfo) -> Path:
        path = name(str(path) if isinstance(path, Path) else path)
        found = existing(path, info)
        if found is not None and (found.is_file() or info.data.get("format", "servegen") == "servegen"):
            return found
        start = f"from {folder(info).absolute()} or the working directory"
        allowed = f"allowed: a trace file, or with format servegen a folder, {start}"
        raise ValueError(f"no trace at {path!r}; {allowed}; check the path")

    @field_validator("lengths")
    @classmethod
    def _check_lengths(cls, value: str | Lengths | None, info: ValidationInfo) -> str | Lengths | None:
        if value is not None and info.data.get("format", "servegen") != "servegen":
            raise ValueError("found lengths; allowed with format servegen only, the others have their own; remove it")
        return value


Drawn = PoissonWorkload | BurstyWorkload | MmppWorkload | DiurnalWorkload | ClosedWorkload | SessionsWorkload
Workload = Annotated[
    Annotated[
        Drawn | TraceWorkload,
        Field(discriminator="kind"),
    ],
    BeforeValidator(kind_word),
]
