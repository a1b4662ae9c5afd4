"""A draft-length table as each serving engine's own configuration, with what its users must know beside it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from sdsim.adapters.tensorrt_llm import speculative_config
from sdsim.engine_config import (
    ranges,
    sglang_adaptive_config,
    sglang_arguments,
    vllm_arguments,
    vllm_speculative_config,
    with_lengths,
)
from sdsim.engine_costs import ROWS, dspark_costs
from sdsim.latency.prices import Prices
from sdsim.models import published_name
from sdsim.policy import IntArray
from sdsim.scenario import DraftSpec, PolicySpec

EngineName = Literal["vllm", "sglang", "tensorrt-llm"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
HEAD = "EAGLE3-HEAD"
ADAPTIVE_FILE, COSTS_FILE = "speculative_adaptive.json", "dspark_sps.json"
METHODS = {
    "vllm": {"model": "draft_model", "eagle3": "eagle3", "mtp": "mtp", "ngram": "ngram"},
    "sglang": {"model": "STANDALONE", "eagle3": "EAGLE3", "mtp": "NEXTN", "ngram": "NGRAM"},
    "tensorrt-llm": {"model": "Draft_Target", "eagle3": "Eagle3", "mtp": "MTP", "ngram": "NGram"},
}
ADAPTIVE = ("eagle3", "mtp")
"""Drafters whose length SGLang changes as it runs (0.5.23: EAGLE, EAGLE3 and what is one of them)."""
WITHOUT = "speculation does not pay here: serve without it, so that no drafter takes memory"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What an engine is to run: a table of draft lengths by batch size, and where it comes from."""

    table: IntArray
    draft: DraftSpec
    drafter: str | None
    """The drafter's weights as the engine finds them; None: by the published name of the scenario's."""
    prices: Prices
    context: float
    usual: tuple[int, int]
    """The least and most decode rows that are usual: a single length is to suit these."""
    live: tuple[PolicySpec, tuple[int, ...]] | None = None
    """A policy better than its table, to run in the engine, and the lengths that it chooses among."""

    @property
    def weights(self) -> str | None:
        """The name of the drafter's weights; None for a drafter that has none of its own."""
        if self.drafter is None and self.draft.model is not None:
            return published_name(self.draft.model)
        return self.drafter or (HEAD if self.draft.kind == "eagle3" else None)


def engine_configuration(engine: EngineName, chosen: Deployment) -> dict[str, Any]:
    """Return the configuration of *engine*: its keys, the arguments to serve with, and notes."""
    written = {"vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _tensorrt_llm}[engine](chosen)
    notes = [] if chosen.table.any() else [WITHOUT]
    if chosen.table.any() and chosen.weights == HEAD:
        notes.append(f"put the path of your EAGLE-3 head in place of {HEAD}, or name it with --drafter")
    return {"engine": engine, **written, "notes": [*notes, *written["notes"]]}


def _vllm(chosen: Deployment) -> dict[str, Any]:
    key = "num_speculative_tokens_per_batch_size"
    found: dict[str, Any] = {key: ranges(chosen.table), "speculative_config": None, "arguments": "", "notes": []}
    if not chosen.table.any():
        return found
    drafter = _named({"method": METHODS["vllm"][chosen.draft.kind]}, "model", chosen.weights)
    found["speculative_config"] = vllm_speculative_config(chosen.table, **drafter)
    found["arguments"] = vllm_arguments(chosen.table, **drafter)
    found["notes"] = [
        f"{key}: vLLM 0.24 or newer, with data_parallel_size 1; it counts all scheduled requests",
        *(["method draft_model follows the table from vLLM 0.33 on"] if chosen.draft.kind == "model" else []),
    ]
    if chosen.live is not None:
        spec, lengths = chosen.live
        settings = {"sdsim": {"policy": {"kind": spec.kind, **spec.parameters}, "prices": "prices.json"}}
        found["live_arguments"] = (
            f"{vllm_arguments(with_lengths(chosen.table, lengths), **drafter)} --scheduler-cls "
            f"sdsim.adapters.vllm.AsyncScheduler --additional-config {shlex.quote(json.dumps(settings))}"
        )
        found["notes"].append(_live_note(spec, lengths))
    return found


def _sglang(chosen: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = {"speculative_adaptive_config": None, "dspark_sps_table": None}
    found |= {"arguments": "", "notes": []}
    if not chosen.table.any():
        return found
    kind, longest = chosen.draft.kind, int(chosen.table.max())
    rows = [n for n in ROWS if n <= len(chosen.table)]
    found["dspark_sps_table"], error = dspark_costs(chosen.prices, longest, chosen.context, rows)
    words = [f"--speculative-algorithm {METHODS['sglang'][kind]}"]
    if chosen.weights is not None:
        words.append(f"--speculative-draft-model-path {shlex.quote(chosen.weights)}")
    if kind in ADAPTIVE:
        found["speculative_adaptive_config"] = sglang_adaptive_config(chosen.table)
        words.append(sglang_arguments(chosen.table, ADAPTIVE_FILE))
        looks = "SGLang looks decoding requests up, padded to graph sizes"
        found["notes"].append(f"{ADAPTIVE_FILE} holds speculative_adaptive_config; {looks}")
    else:
        length = _usual_length(chosen.table, chosen.usual)
        steps = f"--speculative-eagle-topk 1 --speculative-num-steps {length} " if kind == "model" else ""
        words.append(f"{steps}--speculative-num-draft-tokens {length + 1}")
        found["notes"].append(
            f"only EAGLE heads and MTP follow a table; {length} is the length of most usual batch sizes"
        )
    found["arguments"] = " ".join(words)
    found["notes"].append(
        f"a DSpark drafter takes its costs by --speculative-dspark-sps-table-path {COSTS_FILE}, "
        f"which are {error:.1%} off the step prices at most"
    )
    if chosen.live is not None and kind in ADAPTIVE:
        found["notes"].append(_live_note(*chosen.live) + "; SGLang takes it by SDSIM_POLICY")
    elif chosen.live is not None:
        found["notes"].insert(0, f"{chosen.live[0].kind} itself runs in SGLang with an EAGLE head or MTP only")
    return found


def _tensorrt_llm(chosen: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = {"speculative_config": None, "draft_len_schedule": None, "notes": []}
    found["draft_len_schedule_of_lower_bounds"] = None
    if not chosen.table.any():
        return found
    table, notes = chosen.table.copy(), ["it counts decoding requests"]
    if table[0] < table.max():
        notes.append(f"batch 1 drafts {table.max()} instead of {table[0]}: no length may exceed that of batch 1")
        table[0] = table.max()
    drafter = _named({"decoding_type": METHODS["tensorrt-llm"][chosen.draft.kind]}, "speculative_model", chosen.weights)
    upper, lower = (speculative_config(table, version, **drafter) for version in ("1.3.0", "1.2.1"))
    notes.append("draft_len_schedule has upper bounds of batch sizes for keys from 1.3 on; before that, lower bounds")
    if chosen.live is not None:
        notes.insert(
            0, f"{chosen.live[0].kind} cannot run in TensorRT-LLM, which takes no policy: a table stands for it"
        )
    return {
        "speculative_config": upper,
        "draft_len_schedule": upper["draft_len_schedule"],
        "draft_len_schedule_of_lower_bounds": lower["draft_len_schedule"],
        "notes": notes,
    }


def _named(found: dict[str, Any], key: str, weights: str | None) -> dict[str, Any]:
    return found if weights is None else {**found, key: weights}


def _usual_length(table: IntArray, usual: tuple[int, int]) -> int:
    """Return the draft length above 0 that holds for most *usual* batch sizes; of all, where those draft nothing."""
    low, high = usual
    lengths = table[max(low, 1) - 1 : high]
    return int(np.argmax(np.bincount(lengths if lengths.any() else table)[1:])) + 1


def _live_note(spec: PolicySpec, lengths: tuple[int, ...]) -> str:
    table = f"python -m sdsim.price_table SCENARIO --lengths {','.join(map(str, lengths))} --out prices.json"
    return (
        f"{spec.kind} itself runs in the engine, on the prices that {table} writes; the table is the fixed alternative"
    )
