"""Draft lengths by batch size, written as serving engines take them, and read back by the engines' own rules.

A *table* is an array of draft lengths: entry b - 1 is that of batch size b, up to the engine's `max_num_seqs`.
Engines differ in what they count as the batch (vLLM every scheduled request, SGLang and TensorRT-LLM the decoding
ones) and in what they can say; what cannot be said is an error here rather than another table there. None of them
knows the context, so a rule that does is written for one mean context.
"""

from __future__ import annotations

import json
import shlex
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sdsim.errors import PolicyError
from sdsim.policies.batch_table import BatchTable
from sdsim.policies.lengths import LONGEST, draft_length
from sdsim.policies.ranges import Ranges
from sdsim.policy import IntArray, Observation, Policy

Keys = Literal["lower", "upper"]
Rule = Callable[[int, float], int] | npt.ArrayLike
"""A draft length of (batch, mean context), or an array of draft lengths by batch, or by batch and context."""
TYPICAL_CONTEXT = 1024.0


def length_table(
    rule: Rule, max_num_seqs: int, context: float = TYPICAL_CONTEXT, contexts: Sequence[float] = ()
) -> IntArray:
    """Return the table of *rule* for batches 1 to *max_num_seqs* at mean *context*, tokens.

    The columns of an array by batch and context begin at *contexts*, ascending; smaller ones take the first. Raises
    PolicyError for an array of another shape and for an entry that is no draft length.
    """
    values = [rule(batch, context) for batch in range(1, max_num_seqs + 1)] if callable(rule) else rule
    given = np.asarray(values)
    if given.ndim == 2 and given.shape[1] == len(contexts):
        given = given[:, max(bisect_right(contexts, context) - 1, 0)]
    if given.shape != (max_num_seqs,) or max_num_seqs < 1:
        allowed = f"({max_num_seqs},) or ({max_num_seqs}, {len(contexts)}), a draft length for each batch size"
        raise PolicyError(f"table: found an array of shape {given.shape}; allowed: {allowed}; fill it up")
    try:
        return np.array([draft_length(v) for v in given.tolist()], dtype=np.int64)
    except ValueError as error:
        raise PolicyError(f"table: {error}") from None


def policy_table(policy: Policy, max_num_seqs: int, context: float = TYPICAL_CONTEXT) -> IntArray:
    """Return the table that *policy* plans for batches of rows at *context* tokens, with what it has learnt so far."""
    lengths = tuple(sorted({0, *getattr(policy, "lengths", range(LONGEST + 1))}))

    def planned(rows: int, context: float) -> int:
        ids, none = np.arange(rows), np.zeros(rows, dtype=np.int64)
        contexts = np.full(rows, round(context))
        seen = Observation(rows - 1, 0.0, ids, contexts, none, None, 0, 0, 10**9, lengths, none)
        return int(policy.plan(seen).draft_length)

    return length_table(planned, max_num_seqs, context)


def with_lengths(table: IntArray, lengths: Iterable[int]) -> IntArray:
    """Return *table* with each of *lengths* in it, so that an engine captures graphs for them.

    What is missing takes the place of entries at the largest batches, none of them the last of its length. Raises
    PolicyError if the table is too short.
    """
    changed, missing = table.copy(), sorted(set(lengths) - set(table.tolist()))
    for at in range(len(changed) - 1, -1, -1):
        if missing and np.count_nonzero(changed == changed[at]) > 1:
            changed[at] = missing.pop()
    if missing:
        raise PolicyError(
            f"table: {len(table)} batch sizes cannot hold draft lengths {missing} too; raise max_num_seqs"
        )
    return changed


def ranges(table: IntArray) -> list[list[int]]:
    """Return *table* as [first batch, last batch, draft length], as few as possible."""
    changes = np.flatnonzero(np.diff(table)) + 1
    firsts, lasts = [0, *changes.tolist()], [*changes.tolist(), len(table)]
    return [[first + 1, last, int(table[first])] for first, last in zip(firsts, lasts, strict=True)]


def read_vllm_ranges(entries: Sequence[Sequence[int]], max_num_seqs: int, num_speculative_tokens: int) -> IntArray:
    """Return the table behind vLLM's `num_speculative_tokens_per_batch_size`; vLLM sorts the ranges first."""
    try:
        policy = BatchTable(sorted(map(list, entries)), num_speculative_tokens)
    except TypeError:
        found = f"found {entries!r}; allowed: a list of [first, last, length]"
        raise PolicyError(f"num_speculative_tokens_per_batch_size: {found}") from None
    except ValueError as error:
        raise PolicyError(f"num_speculative_tokens_per_batch_size: {error}") from None
    return policy_table(policy, max_num_seqs)


def vllm_speculative_config(table: IntArray, **drafter: Any) -> dict[str, Any]:
    """Return vLLM's speculative_config: *drafter* (method, model, ...), the longest length, and the ranges.

    Raises PolicyError for a table that never drafts: vLLM takes none, and speculation is then better left out.
    """
    longest = _longest(table, "vLLM")
    return {**drafter, "num_speculative_tokens": longest, "num_speculative_tokens_per_batch_size": ranges(table)}


def vllm_arguments(table: IntArray, **drafter: Any) -> str:
    """Return the argument for `vllm serve`, quoted for a shell."""
    return f"--speculative-config {shlex.quote(_compact(vllm_speculative_config(table, **drafter)))}"


def read_vllm_arguments(line: str, max_num_seqs: int) -> IntArray:
    """Return the table in a `vllm serve` command line that has a `--speculative-config`."""
    try:
        config = json.loads(_option(line, "--speculative-config"))
        entries, longest = config["num_speculative_tokens_per_batch_size"], config["num_speculative_tokens"]
    except ValueError as error:
        raise PolicyError(f"--speculative-config: not JSON: {error}; allowed: an object of vLLM's keys") from None
    except (KeyError, TypeError) as error:
        raise PolicyError(
            f"--speculative-config: no {error}; allowed: both the ranges and the longest length"
        ) from None
    return read_vllm_ranges(entries, max_num_seqs, longest)


def sglang_adaptive_config(table: IntArray) -> dict[str, Any]:
    """Return SGLang's `--speculative-adaptive-config`: a slot for each range, with the one step count it may take."""
    _longest(table, "SGLang")
    return {str(first): {"candidate_steps": [length]} for first, _, length in ranges(table)}


def sglang_arguments(table: IntArray, path: str) -> str:
    """Return the arguments for an SGLang server that finds the adaptive config at *path*."""
    steps = _longest(table, "SGLang")
    return (
        f"--speculative-adaptive --speculative-adaptive-config {shlex.quote(path)} --speculative-eagle-topk 1 "
        f"--speculative-num-steps {steps} --speculative-num-draft-tokens {steps + 1}"
    )


def read_sglang_adaptive_config(
    config: Mapping[str, Any], max_num_seqs: int, cuda_graph_bs: Sequence[int] | None = None
) -> IntArray:
    """Return the table behind a config of one step count a slot.

    A batch is padded to the next of *cuda_graph_bs* before it looks for the slot of the largest key not above it; the
    first slot also serves smaller ones (SGLang 0.5.23, `adaptive_spec_params.py`).
    """
    slots = sorted((int(key), entry.get("candidate_steps")) for key, entry in config.items() if key.isdigit())
    unlike = [f"slot {key} has candidate steps {taken}" for key, taken in slots if not _single(taken)]
    if unlike or not slots:
        found = unlike[0] if unlike else "no slots"
        raise PolicyError(f"adaptive config: {found}; allowed: slots of one candidate step, which make a table")
    steps = Ranges("slot", [(key, key, taken[0]) for key, taken in slots], slots[0][0])
    padded = sorted(cuda_graph_bs or ())

    def chosen(batch: int, _: float) -> int:
        at = bisect_left(padded, batch)
        return int(steps.at(padded[at] if at < len(padded) else batch))

    return length_table(chosen, max_num_seqs)


def tensorrt_llm_schedule(table: IntArray, keys: Keys = "upper") -> dict[int, int]:
    """Return TensorRT-LLM's `draft_len_schedule`.

    Its *keys* are the `upper` bounds of ranges since pull request 10860 (1.3.0rc), and larger batches draft
    nothing; before that they were `lower` bounds. Both demand that the first length be the longest: raises
    PolicyError for a table that lengthens its drafts later on.
    """
    longest = _longest(table, "TensorRT-LLM")
    if table[0] != longest:
        found = f"batch 1 drafts {table[0]} but batch {int(np.argmax(table)) + 1} drafts {longest}"
        mend = "cap the table at its first entry, or raise that entry to the longest"
        raise PolicyError(f"draft_len_schedule: {found}; allowed by TensorRT-LLM: no length above the first; {mend}")
    return {(first if keys == "lower" else last): length for first, last, length in ranges(table)}


def read_tensorrt_llm_schedule(schedule: Mapping[int, int], max_num_seqs: int, keys: Keys = "upper") -> IntArray:
    """Return the table behind a `draft_len_schedule` whose keys are the *keys* bounds of its ranges."""
    bounds = sorted(schedule)
    if not bounds or bounds[0] < 1 or (keys == "lower" and bounds[0] != 1):
        first = "1" if keys == "lower" else "1 or more"
        raise PolicyError(f"draft_len_schedule: keys {bounds}; allowed: batch sizes, the least of them {first}")
    if keys == "lower":
        return policy_table(BatchTable([[bound, bound, schedule[bound]] for bound in bounds]), max_num_seqs)

    def chosen(batch: int, _: float) -> int:
        at = bisect_left(bounds, batch)
        return schedule[bounds[at]] if at < len(bounds) else 0

    return length_table(chosen, max_num_seqs)


def _single(taken: object) -> bool:
    return isinstance(taken, list) and len(taken) == 1


def _longest(table: IntArray, engine: str) -> int:
    longest = int(table.max())
    if not longest:
        raise PolicyError(f"table: drafts at no batch size; {engine} takes no such table; serve without speculation")
    return longest


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _option(line: str, name: str) -> str:
    words = shlex.split(line)
    for at, word in enumerate(words):
        if word == name and at + 1 < len(words):
            return words[at + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    raise PolicyError(f"command line: found no {name}; allowed: an engine's command line with one; add it")
