"""The text of a scenario: YAML as plain data, with the place where each key was written.

A YAML subset is read: no tags, no merge keys, each key once and as text, so that `off:` and `1:` are the keys `off` and
`1`. Dates stay text. Aliases count with all that they stand for, so that a small file cannot grow without bound.

A file is data: a policy that names a class, whose module would be run, counts as a mistake unless its user allows code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sdsim import files
from sdsim.errors import ScenarioError, did_you_mean
from sdsim.units import shown

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 32
MAX_DIGITS = 64

KeyPath = tuple[str, ...]
"""Where a value stands: the keys that lead to it, a list's indices among them."""

KINDED = frozenset({"draft", "workload", "acceptance", "routing", "policy"})
"""Keys under which a bare word W means {kind: W}."""

_TAG = "tag:yaml.org,2002:"
_TEXT = frozenset(_TAG + name for name in ("str", "timestamp", "merge", "value"))
_SCALARS = frozenset(_TAG + name for name in ("null", "bool", "int", "float"))
_COLLECTIONS = frozenset({_TAG + "map", _TAG + "seq"})
_AFTER_FILE = 10**9
"""Orders the mistakes of options behind those of any line."""


class Place(NamedTuple):
    """Where a key was written, as shown to people, and its order among the others."""

    order: int
    text: str


@dataclass
class Source:
    """A scenario as written: its data, where each key stands, and the mistakes found so far."""

    name: str
    data: object = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[tuple[Place, str]] = field(default_factory=list)

    def place(self, path: KeyPath) -> Place:
        """Return where *path* was written, or else what it would stand in."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return Place(0, self.name)

    def complain(self, path: KeyPath, message: str) -> None:
        """Note a mistake at *path*."""
        place, key = self.place(path), dotted(path)
        said = not key or place.text == f"--set {key}"
        self.problems.append((place, f"{place.text}: {message}" if said else f"{place.text}: {key}: {message}"))

    def refuse(self) -> None:
        """Raise ScenarioError with all mistakes, in the order of the file, if there are any."""
        if self.problems:
            ordered = sorted(self.problems, key=lambda problem: problem[0])
            raise ScenarioError(*dict.fromkeys(text for _, text in ordered))

    def refuse_code(self) -> None:
        """Raise ScenarioError if a policy of the file, and not of an option, names a class by its module."""
        policies = self.data.get("policy") if isinstance(self.data, Mapping) else None
        found = [
            f"{place.text}: {dotted(path)}: found {shown(text)}, whose module would be run; allowed with --allow-code, "
            "or as a word of --policy; add one if you trust it"
            for path, text in _texts(policies, ("policy",))
            if ":" in text and (place := self.place(path)).order < _AFTER_FILE
        ]
        if found:
            raise ScenarioError(*found)

    def override(self, option: str, number: int) -> None:
        """Carry out the *number*-th override, `key.sub=value` with a YAML value."""
        key, equals, text = option.partition("=")
        key = key.strip()
        place, path = Place(_AFTER_FILE + number, f"--set {shown_key(key)}"), tuple(key.split("."))
        try:
            if not equals or not all(path):
                raise ValueError(f"found {shown(option)}; allowed: key=value; write it such as slo.tpot=50ms")
            read = read_text(text)
            self.put(path, read.data, place)
        except (ValueError, _UnreadableError) as error:
            self.problems.append((place, f"{place.text}: {error}"))
            return
        self.problems += [(place, f"{place.text}: {message}") for _, message in read.mistakes]

    def put(self, path: KeyPath, value: object, place: Place) -> None:
        """Let *value*, written at *place*, stand at *path*. Raises ValueError where nothing can stand."""
        if len(path) > MAX_DEPTH:
            raise ValueError(f"a key of {len(path)} parts; allowed: {MAX_DEPTH}; shorten it")
        self.data = _replaced(self.data, path, (), value)
        self.places = {p: where for p, where in self.places.items() if p[: len(path)] != path}
        for end in range(len(path) + 1):
            self.places.setdefault(path[:end], place)


def read_scenario(path: Path, overrides: Sequence[str] = ()) -> Source:
    """Return the scenario at *path* with *overrides* carried out; raise ScenarioError if it is no YAML."""
    name = str(path)
    text = _file_text(path)
    try:
        read = read_text(text)
    except _UnreadableError as error:
        raise ScenarioError(f"{name}:{error.line}: {error}") from None
    source = Source(name, read.data)
    source.places = {path: Place(line, f"{name}:{line}") for path, line in read.lines.items()}
    for line, message in read.mistakes:
        source.problems.append((Place(line, ""), f"{name}:{line}: {message}"))
    for number, override in enumerate(overrides):
        source.override(override, number)
    return source


def dotted(path: KeyPath) -> str:
    """Return *path* as `--set` takes it."""
    return ".".join(map(shown_key, path))


def shown_key(key: str) -> str:
    """Return *key* for an error message: short and on one line."""
    return key if re.fullmatch(r"[\w.:/<>@ -]{1,60}", key, re.ASCII) else shown(key)


def _file_text(path: Path) -> str:
    try:
        return files.read_text(path, MAX_BYTES)
    except FileNotFoundError:
        near = did_you_mean(path.name, (one.name for one in path.parent.glob("*.y*ml")))
        raise ScenarioError(f"{path}: no such file{near}; a scenario file is needed; check the path") from None
    except (OSError, ValueError) as error:
        found = f"cannot be read: {files.reason(error)}"
        raise ScenarioError(f"{path}: {found}; a scenario file is needed; check the path") from None


class _UnreadableError(Exception):
    """Text that is no YAML, or not of the subset read here."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class _Read:
    """What a text holds, the line of each key, and mistakes that do not stop the reading."""

    data: object = None
    lines: dict[KeyPath, int] = field(default_factory=lambda: {(): 1})
    mistakes: list[tuple[int, str]] = field(default_factory=list)


def read_text(text: str) -> _Read:
    """Return what the YAML document *text* holds."""
    read = _Read()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        read.data = None if node is None else _Builder(loader, read).build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(" ".join(filter(None, (error.context, error.problem))).split())
        message = f"not readable as YAML: {said}; allowed: plain YAML; mend this line or one before it"
        raise _UnreadableError(mark.line + 1 if mark else 1, message) from None
    except yaml.reader.ReaderError as error:
        message = "not text: it holds a control character; allowed: plain YAML; check the path, or remove the character"
        raise _UnreadableError(text.count("\n", 0, error.position) + 1, message) from None
    except RecursionError:
        raise _UnreadableError(1, "nested too deeply; allowed: a few levels; flatten it") from None
    return read


class _Loader(yaml.SafeLoader):
    """A safe loader that gives up on a text with too many values."""

    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count the node, then compose it."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _too_many(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


class _Builder:
    """Turns nodes into plain data and notes their lines."""

    def __init__(self, loader: _Loader, read: _Read) -> None:
        self._loader = loader
        self._read = read
        self._built = 0

    def build(self, node: yaml.Node, path: KeyPath) -> object:
        """Return the data of *node*, which stands at *path*."""
        self._built += 1
        if self._built > MAX_NODES:
            raise _too_many(node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in _COLLECTIONS:
            raise _wrong(node, f"found the tag {node.tag!r}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return [self._member(one, (*path, str(index))) for index, one in enumerate(node.value)]

    def _member(self, node: yaml.Node, path: KeyPath) -> object:
        self._read.lines[path] = node.start_mark.line + 1
        return self.build(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        data: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _wrong(key_node, "found a key that is a list or a mapping; keys are text")
            key, line = str(key_node.value), key_node.start_mark.line + 1
            here = (*path, key)
            if key in data:
                first = self._read.lines[here]
                message = f"{dotted(here)}: written again, first in line {first}; allowed: once; remove one"
                self._read.mistakes.append((line, message))
            self._read.lines[here] = line
            data[key] = self.build(value_node, here)
        return data

    def _scalar(self, node: yaml.ScalarNode) -> object:
        if node.tag in _TEXT:
            return str(node.value)
        if node.tag not in _SCALARS:
            raise _wrong(node, f"found the tag {node.tag!r}")
        try:
            if len(node.value) > MAX_DIGITS:  # base 60 takes quadratic time
                raise ValueError
            return self._loader.construct_object(node)
        except (ValueError, LookupError, OverflowError):
            raise _wrong(node, f"found {shown(node.value)} as {node.tag.removeprefix(_TAG)}") from None


def _texts(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield each text in *value*, and where it stands."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(one, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from _texts(one, (*path, str(index)))


def _wrong(node: yaml.Node, message: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=message, problem_mark=node.start_mark)


def _too_many(mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"over {MAX_NODES:,} values, aliases expanded", problem_mark=mark)


def _replaced(data: object, keys: KeyPath, above: KeyPath, value: object) -> object:
    """Return *data*, which stands at *above*, with *value* at *keys*; copies, because aliases share their data."""
    if not keys:
        return value
    key, rest, here = keys[0], keys[1:], (*above, keys[0])
    if isinstance(data, list):
        if key not in map(str, range(len(data))):
            place = dotted(above)
            raise ValueError(
                f"{place} is a list of {len(data)}; allowed: an index below that, such as {place}.0, or all"
            )
        return [_replaced(old, rest, here, value) if str(i) == key else old for i, old in enumerate(data)]
    mapping = _as_mapping(data, above)
    return {**mapping, key: _replaced(mapping.get(key), rest, here, value)}


def _as_mapping(data: object, path: KeyPath) -> dict[str, object]:
    if data is None or isinstance(data, dict):
        return data or {}
    kinded = bool(path) and path[0] in KINDED and all(key.isdecimal() for key in path[1:])
    if kinded and (isinstance(data, str) or data is False):
        return {"kind": data}
    raise ValueError(f"{dotted(path) or 'the file'} is {shown(data)}, not a mapping; replace all of it instead")
