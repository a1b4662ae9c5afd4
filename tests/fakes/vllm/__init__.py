"""A stand-in for vLLM: the calls that the recorder makes, steps that sleep, and synthetic acceptance."""

from __future__ import annotations

import json
import os
import random
import time
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.22.1"


class Mode(Enum):
    FULL_AND_PIECEWISE = 1


class SamplingParams(SimpleNamespace):
    pass


class Engine:
    def __init__(self, arguments):
        speculation = arguments.get("speculative_config") or {}
        self.rates = speculation.get("synthetic_acceptance_rates", [])
        self.limit = arguments["max_num_seqs"]
        self.random = random.Random(7)
        self.running = {}
        self.vllm_config = SimpleNamespace(
            compilation_config=SimpleNamespace(
                cudagraph_mode=Mode.FULL_AND_PIECEWISE, cudagraph_capture_sizes=[4, 2, 1]
            ),
            scheduler_config=SimpleNamespace(async_scheduling=not speculation),
            cache_config=SimpleNamespace(num_gpu_blocks=5000, block_size=16),
        )

    def add_request(self, name, prompt, parameters):
        assert name not in self.running
        assert parameters.ignore_eos
        assert len(prompt["prompt_token_ids"]) > 0
        self.running[name] = [0, parameters.max_tokens]

    def has_unfinished_requests(self):
        return bool(self.running)

    def abort_request(self, names):
        for name in names:
            self.running.pop(name, None)

    def step(self):
        time.sleep(0.0002 * (1 + len(self.rates)))
        outputs = []
        for name, held in list(self.running.items())[: self.limit]:
            drawn = self.random.random()
            held[0] = min(held[0] + 1 + (sum(drawn < rate for rate in self.rates) if held[0] else 0), held[1])
            finished = held[0] == held[1]
            tokens = SimpleNamespace(token_ids=[0] * held[0])
            outputs.append(SimpleNamespace(request_id=name, outputs=[tokens], finished=finished))
            if finished:
                del self.running[name]
        return outputs


class LLM:
    def __init__(self, **arguments):
        assert os.environ["VLLM_MOE_ROUTING_SIMULATION_STRATEGY"] == "uniform_random"
        config = json.loads((Path(arguments["model"]) / "config.json").read_text())
        if config["vocab_size"] == 666:
            raise RuntimeError("out of memory")
        self.llm_engine = Engine(arguments)
