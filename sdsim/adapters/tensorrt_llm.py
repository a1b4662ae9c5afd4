"""TensorRT-LLM: configuration only.

Its drafters decide in methods marked final (`_torch/speculative/drafter.py`), and there is no plug-in point, so no
policy can run inside it. What it takes is a fixed `draft_len_schedule` by batch size, which this writes from a table
(see `engine_config`).

What to know of it: the keys turned from lower into upper bounds of ranges with pull request 10860, merged in March
2026, after release 1.2; no length may exceed that of batch 1, which rules out the rise and fall that suits a MoE
model at small batch; a schedule excludes `max_concurrency`; and pull request 16888, open in July 2026, drafts one
token where a schedule says none.
"""

from __future__ import annotations

from typing import Any

from sdsim.engine_config import Keys, tensorrt_llm_schedule
from sdsim.errors import PolicyError
from sdsim.policy import IntArray

FIRST_WITH_UPPER_KEYS = (1, 3)


def schedule_keys(version: str) -> Keys:
    """Return what the keys of a schedule are in release *version*, such as 1.2.1. Raises PolicyError for no version."""
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        raise PolicyError(f"TensorRT-LLM version {version!r}; allowed: a release such as 1.2.1") from None
    return "upper" if (major, minor) >= FIRST_WITH_UPPER_KEYS else "lower"


def speculative_config(table: IntArray, version: str, **drafter: Any) -> dict[str, Any]:
    """Return the LLM API's `speculative_config` for release *version*; *drafter* holds decoding_type and the like."""
    schedule = tensorrt_llm_schedule(table, schedule_keys(version))
    return {**drafter, "max_draft_len": int(table.max()), "draft_len_schedule": schedule}
