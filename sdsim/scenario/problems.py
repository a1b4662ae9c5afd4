"""What is wrong with a scenario, in its writer's words: pydantic's findings as key paths and sentences.

A sentence says what was found, what is allowed and what to do. Pydantic's locations also hold what the file does not:
the kind that a union was resolved to, and list indices and keys that a short form leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sdsim.errors import unknown
from sdsim.scenario.file import KeyPath
from sdsim.units import shown

_Models = list[type[BaseModel]]


def problems(error: ValidationError, root: type[BaseModel], data: object) -> Iterator[tuple[KeyPath, str]]:
    """Yield the key path and the sentence of each mistake that pydantic found when it made a *root* of *data*."""
    for detail in error.errors(include_url=False):
        path, outer, inner = _follow(detail["loc"], root, data)
        if detail["type"] == "union_tag_invalid":
            path = (*path, "kind")
        for line in _sentence(detail, path, outer, inner).splitlines():
            yield _placed(path, line)


def _follow(loc: tuple[int | str, ...], root: type[BaseModel], data: object) -> tuple[KeyPath, _Models, _Models]:
    """Return the key path of *loc* in *data*, the models that its last key stands in, and those that stand there."""
    path: list[str] = []
    outer, inner = [root], [root]
    for number, part in enumerate(loc):
        field = _fields(inner).get(str(part))
        if field is None and (chosen := [m for m in inner if len(inner) > 1 and part in _kinds(m)]):
            outer = inner = chosen
            continue
        outer = inner
        inner = inner if field is None else _models(field.annotation)
        there = _has(data, part)
        if part != "[key]" and (there or (isinstance(part, str) and number == len(loc) - 1)):
            path.append(str(part))
        data = _get(data, part) if there else data
    return tuple(path), outer, inner


def _has(data: object, part: int | str) -> bool:
    if isinstance(data, list | tuple):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, Mapping) and part in data


def _get(data: Any, part: int | str) -> object:
    return data[part]


def _fields(models: _Models) -> dict[str, FieldInfo]:
    return {field.alias or name: field for model in models for name, field in model.model_fields.items()}


def _models(annotation: object) -> _Models:
    """Return the models that a value of the type *annotation* may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _kinds(model: type[BaseModel]) -> tuple[str, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def _sentence(detail: ErrorDetails, path: KeyPath, outer: _Models, inner: _Models) -> str:
    """Return what was found, what is allowed and what to do, one line a mistake."""
    found, kind = shown(detail["input"]), detail["type"]
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "missing":
        required = [name for name, field in _fields(outer).items() if field.is_required()]
        return f"missing; required here: {', '.join(required)}; add it"
    if kind == "extra_forbidden":
        return f"{unknown('key', path[-1][:60], _fields(outer))}; correct or remove it"
    kinds = [name for model in inner for name in _kinds(model)]
    if kind == "union_tag_invalid":
        return unknown(f"{path[0]} kind", detail["ctx"]["tag"][:60], kinds)
    if kind == "union_tag_not_found" or (kind.startswith("model_") and len(inner) > 1):
        known = ", ".join(sorted(kinds))
        return f"found {found}; allowed: a mapping whose kind is one of {known}; write {{kind: {kinds[0]}, ...}}"
    if kind.startswith("model_") and inner:
        return f"found {found}; allowed: a mapping with keys of {', '.join(_fields(inner))}; write {{key: value}}"
    if kind in ("string_type", "invalid_key"):
        return f"found {found} as a name; allowed: text; put it in quotes"
    wanted = {"dict_type": "a mapping of names, {name: ...}", "tuple_type": "a list, [...]"}.get(kind, detail["msg"])
    return f"found {found}; allowed: {wanted}; correct it"


def _placed(path: KeyPath, line: str) -> tuple[KeyPath, str]:
    """Return the key path that *line* starts with, if it is at or below the top key of *path*, and the rest."""
    head, colon, rest = line.partition(": ")
    keys = tuple(head.split("."))
    if colon and path and keys[0] == path[0]:
        return (keys if len(keys) > 1 else path), rest
    return path, line
