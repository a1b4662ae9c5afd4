"""The kinds of values that a scenario's keys take, read as people write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from sdsim.errors import SdsimError, unknown
from sdsim.units import (
    COUNT,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    SHARE,
    Span,
    parse_duration,
    parse_number,
    parse_rate,
    parse_whole,
    plain_number,
    shown,
)

LONGEST_NAME = 1000
MANY = 10_000
"""Of what each costs memory before anything runs."""


class Spec(BaseModel):
    """A part of a scenario: immutable, and without keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def name(value: object) -> str:
    """Return *value*, a name."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > LONGEST_NAME:
        raise ValueError(f"found {shown(value)}; allowed: a name on one line; write it as text, in quotes if need be")
    return value


def one_of(what: str, names: Iterable[str], value: object) -> str:
    """Return *value*, the name of a *what*, one of *names*."""
    if not isinstance(value, str) or value not in names:
        raise ValueError(unknown(what, value[:60] if isinstance(value, str) else shown(value), names))
    return value


def ask(check: Callable[[], object]) -> None:
    """Call *check*; turn what it finds wrong into a ValueError, which pydantic gives its place."""
    try:
        check()
    except SdsimError as error:
        raise ValueError("\n".join(error.problems)) from None


def kind_word(value: object) -> object:
    """Return {kind: W} for a bare word W, and anything else as it is."""
    return {"kind": value} if isinstance(value, str) else value


def filled(value: object) -> object:
    """Return *value*, unless it is an empty list or mapping."""
    if isinstance(value, list | tuple | Mapping) and not value:
        raise ValueError(f"found {shown(value)}; allowed: one entry or more; add one, or remove the key")
    return value


def listed(value: object) -> object:
    """Return *value* as a list that is not empty: a single entry may be written without brackets."""
    return filled(value if isinstance(value, list | tuple) else [value])


def folder(info: ValidationInfo) -> Path:
    """Return the folder that relative paths start from."""
    where: Path = (info.context or {}).get("folder", Path())
    return where


def existing(path: str | Path, info: ValidationInfo) -> Path | None:
    """Return the absolute path of *path*, if there is anything: from the scenario's folder, else from here.

    What `--set` names stands where the shell completes it: in the working directory.
    """
    try:
        return next(((start / path).resolve() for start in (folder(info), Path()) if (start / path).exists()), None)
    except (OSError, ValueError):
        return None


def plain(value: object) -> object:
    """Return *value* as YAML would hold it: numbers written as text become numbers, and tuples lists."""
    if value is None or isinstance(value, bool):
        return value
    if (number := plain_number(value)) is not None:
        return int(number) if number == int(number) and isinstance(value, str) else number
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(one) for key, one in value.items()}
    raise ValueError(f"found {shown(value)}; allowed: finite numbers, text, lists and mappings of them; correct it")


Name = Annotated[str, BeforeValidator(name)]
PositiveNumber = Annotated[float, BeforeValidator(partial(parse_number, span=POSITIVE))]
NonNegativeNumber = Annotated[float, BeforeValidator(partial(parse_number, span=NOT_NEGATIVE))]
Share = Annotated[float, BeforeValidator(partial(parse_number, span=SHARE))]
Part = Annotated[float, BeforeValidator(partial(parse_number, span=PART))]
Count = Annotated[int, BeforeValidator(partial(parse_whole, span=COUNT))]
Copies = Annotated[int, BeforeValidator(partial(parse_whole, span=Span(1, MANY)))]
Seconds = Annotated[float, BeforeValidator(parse_duration)]
PositiveSeconds = Annotated[float, BeforeValidator(partial(parse_duration, span=POSITIVE))]
Rate = Annotated[float, BeforeValidator(parse_rate)]
RateOrZero = Annotated[float, BeforeValidator(partial(parse_rate, span=NOT_NEGATIVE))]
