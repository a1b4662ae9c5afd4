"""What all measurement records share: who was measured, on what, and how the engine was set.

A record is one JSON object a line. Keys that are not listed here or in the record's own class are kept as they are.
"""

from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from sdsim.scenario.fields import Count, Name, NonNegativeNumber, Share
from sdsim.units import COUNT, Span, parse_whole, shown

WholeOrZero = Annotated[int, BeforeValidator(partial(parse_whole, span=Span(0, COUNT.high)))]
DRAFT_WORDS = ("eagle3", "mtp", "ngram")
"""Drafts that are no model of their own."""


class Record(BaseModel):
    """One line of a record."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    model: Name
    """A model's name or alias."""
    target_config: Name | None = Field(default=None, alias="model_config")
    """Path of a config.json, relative to the record's folder, for a model that does not ship."""
    draft: Name | None = None
    draft_config: Name | None = None
    draft_length: WholeOrZero = Field(alias="gamma")
    """Draft tokens a step; 0: no drafter was loaded."""
    alpha: Share | None = None
    """Conditional acceptance of each draft token, independent of the others."""
    gpu: Name | None = None
    engine: Name | None = None
    """Name and version, such as `vllm 0.22.1`."""
    graph_mode: Name | None = None
    """The engine's word for the CUDA graphs it captured, such as FULL_AND_PIECEWISE."""
    capture_sizes: tuple[Count, ...] | None = None
    """Token counts with a captured graph, ascending; None: as the engine's rule has them."""
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count = 8192
    memory_fraction: NonNegativeNumber = 0.95
    kv_blocks: Count | None = None
    block_size: Count = 16
    async_scheduling: bool | None = None

    @field_validator("capture_sizes", mode="before")
    @classmethod
    def _ascending(cls, sizes: Any) -> Any:
        listed = sizes is None or isinstance(sizes, list | tuple)
        if not listed or (sizes is not None and (not sizes or list(sizes) != sorted(set(sizes)))):
            raise ValueError(f"found {shown(sizes)}; allowed: one token count or more that rise; sort or drop them")
        return sizes

    @model_validator(mode="after")
    def _can_draft(self) -> Record:
        if self.draft_length and self.alpha is None:
            raise ValueError(f"alpha: missing with gamma {self.draft_length}; allowed: a rate from 0 to 1; add it")
        return self

    def target_name(self) -> str:
        """Return what a scenario calls the target: its alias, or the path of its config."""
        return self.target_config or shipped_config(self.model) or self.model


def shipped_config(name: str) -> str | None:
    """Return the path of the config of a model that exists for measuring only, or None for any other name."""
    folder = resources.files("sdsim").joinpath("data/measured_models")
    file = folder.joinpath(f"{Path(name).name}.json")
    return str(file) if file.is_file() and Path(name).name == name else None


def faults(error: ValidationError) -> list[str]:
    """Return the sentences of *error*: the key, what was found, what is allowed."""
    found = []
    for one in error.errors():
        key = ".".join(map(str, one["loc"]))
        if one["type"] == "missing":
            said = "missing; add it"
        else:
            said = str(one.get("ctx", {}).get("error") or f"found {shown(one['input'])}; {one['msg']}")
        found.append(f"{key}: {said}" if key else said)
    return found
