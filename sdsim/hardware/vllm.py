"""Time an installed vLLM on this GPU: `python -m sdsim.hardware.vllm JOB.json OUT.jsonl`, one engine a process.

Weights are random (`load_format="dummy"`), tokens are routed uniformly, and drafts are accepted by coins with the
unconditional rates alpha^(i + 1) per position, which is an independent conditional alpha. The engine runs in this
process, without a tokenizer and without prefix caching; a step's time is that between two returns of its `step`. Lines
are what `sdsim.measurements` reads. Needs numpy and vLLM beside the standard library.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_MOE_ROUTING_SIMULATION_STRATEGY": "uniform_random",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
WARM_STEPS = 12
WARM_REQUESTS, WARM_ROUNDS = 64, 2
SPECIAL_TOKENS = 10
IDLE_S = 0.005
Line = dict[str, Any]


class Job(TypedDict):
    """What one engine process is to measure."""

    model: str
    target_config: dict[str, Any]
    """The content of a Hugging Face config.json."""
    draft: str | None
    draft_config: dict[str, Any] | None
    gamma: int
    alpha: float
    max_num_seqs: int
    max_num_batched_tokens: int
    memory_fraction: float
    max_model_len: int
    seed: int
    steps: list[tuple[int, int, int]]
    """(batch, prompt tokens, measured steps) of steady decoding."""
    requests: list[tuple[float, int, int]]
    """(arrival s, prompt tokens, output tokens), by arrival, replayed open-loop."""


class Engine:
    """One vLLM engine and the facts that every line of it states."""

    def __init__(self, job: Job, folder: Path) -> None:
        os.environ.update(ENVIRONMENT)
        import vllm

        self.job = job
        started = time.perf_counter()
        llm = vllm.LLM(**engine_arguments(job, folder))
        self.engine = llm.llm_engine
        self._parameters = vllm.SamplingParams
        self._random = np.random.default_rng(job["seed"])
        self.facts = self._facts(vllm, time.perf_counter() - started)

    def _facts(self, vllm: Any, init_s: float) -> Line:
        from vllm.platforms import current_platform

        job, config = self.job, self.engine.vllm_config
        drafting = bool(job["gamma"])
        return {
            "model": job["model"],
            "draft": job["draft"] if drafting else None,
            "gamma": job["gamma"],
            "alpha": job["alpha"] if drafting else None,
            "engine": f"vllm {vllm.__version__}",
            "device": current_platform.get_device_name(),
            "graph_mode": config.compilation_config.cudagraph_mode.name,
            "capture_sizes": sorted(config.compilation_config.cudagraph_capture_sizes),
            "async_scheduling": bool(config.scheduler_config.async_scheduling),
            "max_num_seqs": job["max_num_seqs"],
            "max_num_batched_tokens": job["max_num_batched_tokens"],
            "memory_fraction": job["memory_fraction"],
            "kv_blocks": config.cache_config.num_gpu_blocks,
            "block_size": config.cache_config.block_size,
            "init_s": round(init_s, 1),
        }

    def add(self, name: str, prompt: int, output: int) -> None:
        """Queue a request of random tokens that runs to its whole length."""
        low, high = SPECIAL_TOKENS, self.job["target_config"]["vocab_size"] - SPECIAL_TOKENS
        tokens = self._random.integers(low, high, prompt).tolist()
        parameters = self._parameters(temperature=1.0, max_tokens=output, ignore_eos=True, detokenize=False)
        self.engine.add_request(name, {"prompt_token_ids": tokens}, parameters)

    def drain(self) -> None:
        """Run until nothing is left."""
        while self.engine.has_unfinished_requests():
            self.engine.step()


def engine_arguments(job: Job, folder: Path) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`; the models' configs are written below *folder*."""
    arguments: dict[str, Any] = {
        "model": _config_folder(folder / "target", job["target_config"]),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "max_model_len": job["max_model_len"],
        "max_num_seqs": job["max_num_seqs"],
        "max_num_batched_tokens": job["max_num_batched_tokens"],
        "gpu_memory_utilization": job["memory_fraction"],
        "enable_prefix_caching": False,
        "disable_log_stats": True,
    }
    if job["gamma"] and job["draft_config"] is not None:
        arguments["speculative_config"] = {
            "method": "draft_model",
            "model": _config_folder(folder / "draft", job["draft_config"]),
            "num_speculative_tokens": job["gamma"],
            "rejection_sample_method": "synthetic",
            "synthetic_acceptance_rates": [job["alpha"] ** (i + 1) for i in range(job["gamma"])],
        }
    return arguments


def _config_folder(folder: Path, config: dict[str, Any]) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def steady(engine: Engine, batch: int, prompt: int, steps: int) -> Line:
    """Measure *steps* decode steps of *batch* requests after all of them have decoded for a while."""
    names = [f"steady-{batch}-{prompt}-{i}" for i in range(batch)]
    for name in names:
        engine.add(name, prompt, (steps + 2 * WARM_STEPS + batch) * (engine.job["gamma"] + 1))
    known: dict[str, int] = {}
    seconds, tokens, stored = [], [], []
    before, decoding = time.perf_counter(), 0
    while decoding < WARM_STEPS + steps:
        held = sum(known.values())
        grown = _grown(engine.engine.step(), known)
        now = time.perf_counter()
        if grown:
            decoding += len(known) == batch
            if decoding > WARM_STEPS:
                seconds.append(now - before)
                tokens.append(sum(grown) / batch)
                stored.append(prompt + held / batch - 1)
            before = now
    engine.engine.abort_request(names)
    engine.drain()
    return engine.facts | {
        "B": batch,
        "P": prompt,
        "context": statistics.fmean(stored),
        "step_ms_median": 1e3 * statistics.median(seconds),
        "step_ms_mean": 1e3 * statistics.fmean(seconds),
        "step_ms_p90": 1e3 * float(np.percentile(seconds, 90)),
        "tokens_per_seq_step": statistics.fmean(tokens),
        "n": len(seconds),
    }


def _grown(outputs: Sequence[Any], known: dict[str, int]) -> list[int]:
    """Return by how many tokens each output grew, and keep their new lengths in *known*."""
    grown = []
    for output in outputs:
        length = len(output.outputs[0].token_ids)
        grown.append(length - known.get(output.request_id, 0))
        known[output.request_id] = length
    return grown


def replay(engine: Engine, requests: Sequence[tuple[float, int, int]]) -> list[Line]:
    """Return a line a request of *requests*, added when their time comes, between steps; times from the start, s."""
    _warm_up(engine)
    rate = len(requests) / max(requests[-1][0] - requests[0][0], 1e-9)
    lines: dict[str, Line] = {}
    start, added = time.perf_counter(), 0
    while added < len(requests) or engine.engine.has_unfinished_requests():
        now = time.perf_counter() - start
        while added < len(requests) and requests[added][0] <= now:
            arrival, prompt, output = requests[added]
            lines[str(added)] = engine.facts | {
                "rate": rate, "i": added, "arrival": arrival, "prompt": prompt, "output": output
            }  # fmt: skip
            engine.add(str(added), prompt, output)
            added += 1
        if not engine.engine.has_unfinished_requests():
            time.sleep(max(0.0, min(IDLE_S, requests[added][0] - now)))
            continue
        outputs = engine.engine.step()
        _note(outputs, lines, time.perf_counter() - start)
    return list(lines.values())


def _note(outputs: Sequence[Any], lines: dict[str, Line], now: float) -> None:
    for output in outputs:
        tokens = len(output.outputs[0].token_ids)
        line = lines[output.request_id]
        if tokens:
            line.setdefault("first", now)
        if output.finished:
            line |= {"finish": now, "got": tokens}


def _warm_up(engine: Engine) -> None:
    """Run prompts and batches of many sizes once, so that nothing is compiled or captured on a request's time."""
    for round_ in range(WARM_ROUNDS):
        for i in range(min(WARM_REQUESTS, engine.job["max_num_seqs"])):
            engine.add(f"warm-{round_}-{i}", 64 * (1 + i % 20), 30 + i)
        engine.drain()


def measure(job: Job) -> Iterator[Line]:
    """Yield the lines of *job* as they are measured."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(job, Path(folder))
        for batch, prompt, steps in job["steps"]:
            yield steady(engine, batch, prompt, steps)
        if job["requests"]:
            yield from replay(engine, job["requests"])


def main(words: Sequence[str]) -> int:
    """Measure the job in the first file; write its lines to the second, whole."""
    job = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    lines = []
    for line in measure(job):
        lines.append(json.dumps(line))
        if "step_ms_median" in line:
            sys.stderr.write(f"{line['model']} K={line['gamma']} B={line['B']}: {line['step_ms_median']:.2f} ms\n")
    Path(words[1]).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
