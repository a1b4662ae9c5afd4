"""What a serving engine adds to its kernels: graph padding, the capture limit, sampling, and time on the host.

An engine file (`data/engines/*.json`, or any path) holds these figures. `ideal` is the kernels in captured graphs
with no host time and no padding.

The host works ahead of the GPU in one of two ways. Without a drafter, and with drafters not in `synchronous_drafts`,
the next step is scheduled and launched while this one runs: a step takes the longer of the two. With the others the
host waits for each step's tokens: it schedules and prepares (the GPU idle), launches the target, the rejection and the
draft passes, and the GPU works on whatever has been launched.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdsim.drafts import KINDS
from sdsim.errors import CalibrationError, unknown
from sdsim.files import parse_json, read_text, reason
from sdsim.models import Model
from sdsim.policy import FloatArray, IntArray
from sdsim.units import shown

SCHEMA = 2
MOST_TOKENS = 2**20
MOST = {"_s": 1e3, "_bytes": 1e12}
"""Largest figures, by the unit that ends their name; shares are 1 at most."""


class Phases(NamedTuple):
    """A step's work: GPU seconds of target, sampling and drafts, and what the host needs to launch them."""

    target_s: float
    sampling_s: float
    draft_s: float
    launch_target_s: float
    launch_draft_s: float
    rows: int

    @property
    def gpu_s(self) -> float:
        """All of the GPU's work."""
        return self.target_s + self.sampling_s + self.draft_s


@dataclass(frozen=True, slots=True)
class EngineOverhead:
    """Overheads of one engine version. Times in s."""

    name: str
    kernels: str = ""
    """The kernel backend whose measured tables replace the project's own kernels."""
    capture_limit: int = 0
    """Largest token count with a captured graph; 0: every count has one and none is padded."""
    padding_routed: bool = False
    """Whether padding tokens are routed like others, as an engine's simulated routing does."""
    shared_stream_tokens: int = 0
    """Largest token count at which the shared expert runs beside the routed ones on a stream of its own."""
    shared_stream_gain: float = 0.0
    """The largest share of the shared expert's time that this hides."""
    memory_bytes: float = 0.0
    """Memory of each GPU that is taken beside weights, activations and KV: CUDA's context, libraries, graphs."""
    synchronous_drafts: tuple[str, ...] = ()
    """Kinds of drafter under which the host waits for each step's tokens before it goes on."""
    host_step_s: float = 0.0
    """Scheduling, input preparation and output handling of a step."""
    host_row_s: float = 0.0
    """What each row adds to that."""
    host_draft_row_s: float = 0.0
    """What each row adds under a drafter: its drafts are placed, their verdicts read, the new ones handed on."""
    host_ahead_s: float = 0.0
    """What a step costs a host that works ahead besides: most steps on the GPU hide it."""
    host_layer_s: float = 0.0
    """Launching one layer's attention and dense part without a graph."""
    host_experts_s: float = 0.0
    """Launching one layer's routed experts without a graph."""
    host_shared_s: float = 0.0
    """Launching one layer's shared expert without a graph."""
    host_new_count_s: float = 0.0
    """Without a graph, what a step costs beside its launches at a token count that the host has not met: a mean."""
    host_piece_layer_s: float = 0.0
    """Launching one layer's attention, and the graph of all between it and the next, where rows are not alike."""
    host_draft_layer_s: float = 0.0
    """Launching one layer of a draft pass."""
    host_draft_pass_s: float = 0.0
    """What a draft pass costs the host beside its layers."""
    draft_gap_s: float = 0.0
    """Time between two kernels of a draft pass launched one by one."""
    draft_slots: int = 0
    """Positions that a draft model's first pass has for each request beyond the step's own: the token just sampled is
    added to them. A step's budget leaves as many free for each of `max_num_seqs`."""
    sampling_s: float = 0.0
    """GPU time of the sampler beside its passes over the logits."""
    rejection_s: float = 0.0
    """The same of the rejection sampler."""
    logit_s: float = 0.0
    """Time per logit of both; 0: one fused pass, priced by the kernels."""

    def shared_hidden(self, tokens: IntArray) -> FloatArray:
        """Return the share of a shared expert's time that its own stream hides.

        It falls to 0 at half of `shared_stream_tokens`; above, the two streams collide, and it is negative.
        """
        beside = (tokens > 0) & (tokens <= self.shared_stream_tokens)
        share = 1 - 1 / np.maximum(tokens, 1) - 2 * tokens / max(self.shared_stream_tokens, 1)
        return np.where(beside, self.shared_stream_gain * share, 0.0)

    def capture_sizes(self, max_num_seqs: int, longest: int) -> tuple[int, ...]:
        """Return the captured token counts of an engine of *max_num_seqs* rows and at most *longest* drafts.

        vLLM's rule: 1, 2, 4, multiples of 8 to 256 and of 16 up to the limit, then raised to multiples of a row's
        tokens, as far as the largest of them allows.
        """
        row = longest + 1
        limit = min(2 * max_num_seqs * row, self.capture_limit)
        sizes = [s for s in (1, 2, 4, *range(8, 257, 8), *range(272, limit + 1, 16)) if s <= limit]
        raised = (math.ceil(s / row) * row for s in sizes)
        return tuple(sorted({s for s in raised if s <= sizes[-1]}))

    def synchronous(self, draft_kind: str | None) -> bool:
        """Return whether the host waits for each step's tokens."""
        return draft_kind in self.synchronous_drafts

    @property
    def ideal(self) -> bool:
        """Whether the host costs nothing, so that a step is the GPU's work."""
        return not any(getattr(self, f.name) for f in fields(self) if f.name.startswith("host_"))

    def launch_target_s(self, target: Model, eager: bool, alike: bool) -> float:
        """Return the host's time to launch *target*: *eager* without graphs, in one graph if rows are *alike*.

        vLLM captures whole steps of rows with as many tokens each. Any other batch, one with prompts above all, runs in
        graphs of what is between the layers' attention, which is launched layer by layer. Without graphs, such a batch
        mostly has a token count of its own.
        """
        if not eager:
            return 0.0 if alike else target.layers * self.host_piece_layer_s
        seconds = target.layers * self.host_layer_s + target.moe_layers * self.host_experts_s
        seconds += 0.0 if alike else self.host_new_count_s
        return seconds + (target.moe_layers * self.host_shared_s if target.shared_intermediate else 0.0)

    def launch_draft_s(self, drafter: Model) -> float:
        """Return the host's time to launch one pass of *drafter*."""
        return self.host_draft_pass_s + drafter.layers * self.host_draft_layer_s

    def host_s(self, rows: int, draft_kind: str | None) -> float:
        """Return the host's time of a step of *rows* rows, under the drafter that it has, beside its launches."""
        ahead = 0.0 if self.synchronous(draft_kind) else self.host_ahead_s
        return self.host_step_s + ahead + rows * (self.host_row_s + (self.host_draft_row_s if draft_kind else 0.0))

    def added_positions(self, requests: int, draft_kind: str | None) -> int:
        """Return the positions that a drafter's first pass has for *requests* beyond those of the step itself."""
        return self.draft_slots * requests if draft_kind == "model" else 0

    def seconds(self, work: Phases, draft_kind: str | None) -> float:
        """Return the time of a step among steps of its kind."""
        host = self.host_s(work.rows, draft_kind)
        if self.synchronous(draft_kind):
            target = max(work.target_s, work.launch_target_s)
            launched = work.launch_target_s + work.launch_draft_s
            return host + max(target + work.sampling_s + work.draft_s, launched)
        return max(work.gpu_s, host + work.launch_target_s + work.launch_draft_s)


def padded(tokens: int, sizes: tuple[int, ...]) -> int:
    """Return the token count that runs: the next captured size, or *tokens* itself beyond them."""
    return sizes[bisect.bisect_left(sizes, tokens)] if sizes and tokens <= sizes[-1] else tokens


def engine_names() -> list[str]:
    """Return the engines that ship."""
    folder = resources.files("sdsim").joinpath("data/engines")
    return sorted(f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json"))


def load_engine(name: str, folder: Path = Path()) -> EngineOverhead:
    """Return a shipped engine by name, or one from a JSON file, relative to *folder*."""
    if name in engine_names():
        text = resources.files("sdsim").joinpath(f"data/engines/{name}.json").read_text()
        return _parse(text, name)
    if not name.endswith(".json"):
        raise CalibrationError(f"engine: {unknown('engine', name, engine_names())}; or give the path of a .json file")
    path = folder / name
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise CalibrationError(
            f"{path}: cannot be read: {reason(error)}; name a shipped engine or a JSON file"
        ) from None
    return _parse(text, str(path))


def _parse(text: str, place: str) -> EngineOverhead:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise CalibrationError(f"{place}: not JSON: {error}; mend or replace the file") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = shown(data.get("schema") if isinstance(data, dict) else data)
        raise CalibrationError(f"{place}: engine schema {found}; this version reads {SCHEMA}; update sdsim or the file")
    figures = {k: v for k, v in data.items() if k not in ("schema", "provenance")}
    problems = _problems(figures)
    if problems:
        raise CalibrationError(*(f"{place}: {p}" for p in problems))
    figures["synchronous_drafts"] = tuple(figures.get("synchronous_drafts", ()))
    return EngineOverhead(**figures)


def _problems(figures: dict[str, Any]) -> list[str]:
    known = {f.name: f.type for f in fields(EngineOverhead)}
    problems = [f"{unknown('key', key[:60], known)}; correct or remove it" for key in figures if key not in known]
    for key, value in figures.items():
        if key in known and (allowed := _wanted(key, str(known[key]), value)):
            problems.append(f"{key}: {shown(value)}; allowed: {allowed}; correct it")
    if not figures.get("name"):
        problems.append("name: missing; give the engine and its version")
    return problems


def _wanted(key: str, kind: str, value: Any) -> str | None:
    """Return what the field *key* of the type *kind* may hold, or None if *value* is of it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "str":
        plain = isinstance(value, str) and value.isprintable() and len(value) <= 60 and value == Path(value).name
        return None if plain or value == "" else "a short name without slashes"
    if kind == "bool":
        return None if isinstance(value, bool) else "true or false"
    if kind == "int":
        whole = number and isinstance(value, int) and 0 <= value <= MOST_TOKENS
        return None if whole else f"a number of tokens from 0 to {MOST_TOKENS:,}, 0 for no limit"
    if kind == "float":
        most = next((most for unit, most in MOST.items() if key.endswith(unit)), 1.0)
        return None if number and 0 <= value <= most else f"a number from 0 to {most:g}"
    listed = isinstance(value, list) and all(isinstance(word, str) and word in KINDS for word in value)
    return None if listed else f"a list of {', '.join(KINDS)}"
