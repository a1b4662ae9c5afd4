"""Load over an interval: batch, queue, arrivals and lengths. What the engine does not tell is None.

`mean_batch` and `kv_used` are of one engine or data-parallel rank, the rest of all together.
"""

from __future__ import annotations

from typing import Any

from sdsim.engine_metrics.scrape import Interval


def vllm_load(interval: Interval) -> dict[str, Any]:
    """Return vLLM's load. The mean batch is exact: rows that decoded over iterations that gave output."""
    generated = interval.counter("vllm:generation_tokens_total")
    first = interval.counter("vllm:time_to_first_token_seconds_count") or 0.0
    accepted = interval.counter("vllm:spec_decode_num_accepted_tokens_total") or 0.0
    iterations = interval.counter("vllm:iteration_tokens_total_count")
    # A row emits one token a step beside its accepted drafts; a request's first token comes from its prompt.
    rows = None if generated is None else max(generated - accepted - first, 0.0)
    return {
        "mean_batch": rows / iterations if rows is not None and iterations else None,
        "running": interval.gauge("vllm:num_requests_running"),
        "waiting": interval.gauge("vllm:num_requests_waiting"),
        "kv_used": interval.gauge("vllm:kv_cache_usage_perc", mean=True),
        "requests_per_s": _per_second(interval, "vllm:request_success_total"),
        "output_tokens_per_s": _per_second(interval, "vllm:generation_tokens_total"),
        "prompt_tokens": interval.ratio("vllm:request_prompt_tokens_sum", "vllm:request_prompt_tokens_count"),
        "output_tokens": interval.ratio("vllm:request_generation_tokens_sum", "vllm:request_generation_tokens_count"),
        "preemptions": interval.counter("vllm:num_preemptions_total"),
    }


def sglang_load(interval: Interval) -> dict[str, Any]:
    """Return SGLang's load. Its counters grow when a request finishes; the batch is that at the scrapes."""
    requests = "sglang:num_requests_total"
    return {
        "mean_batch": interval.gauge("sglang:num_running_reqs", mean=True),
        "running": interval.gauge("sglang:num_running_reqs"),
        "waiting": interval.gauge("sglang:num_queue_reqs"),
        "kv_used": interval.gauge("sglang:token_usage", mean=True),
        "requests_per_s": _per_second(interval, requests),
        "output_tokens_per_s": _per_second(interval, "sglang:generation_tokens_total"),
        "prompt_tokens": interval.ratio("sglang:prompt_tokens_total", requests),
        "output_tokens": interval.ratio("sglang:generation_tokens_total", requests),
        "preemptions": None,
    }


def _per_second(interval: Interval, name: str) -> float | None:
    grown = interval.counter(name)
    return grown / interval.seconds if grown is not None and interval.seconds else None
