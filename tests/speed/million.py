"""A million requests over 64 replicas, and a tenth of them: `python -m tests.speed.million` from the checkout.

A number after it multiplies the requests: time is to be linear in them, and memory no more than the figures need.
"""

from __future__ import annotations

import sys

from tests.speed.process import measured

SCENARIO = """
model: qwen3-30b-a3b
draft: {{kind: model, model: qwen2-0.5b}}
gpus: 1 x h200
replicas: 64
engine: ideal
workload: {{kind: poisson, rate: 900/s, limit: {requests}, lengths: azure-conv}}
acceptance: {{kind: iid, rate: 0.8}}
policy: {{kind: fixed, length: 3}}
slo: {{ttft: 2s, tpot: 50ms}}
seed: 7
"""
MOST_S, MOST_MB = 180, 2048
"""Of a million requests."""
UNEVEN = 1.25
"""How much longer a step may take in the longer run."""


def main(times: int) -> int:
    """Print both runs; return 1 where one misses its aim."""
    each, missed = [], False
    for requests in (100_000 * times, 1_000_000 * times):
        run = measured(SCENARIO.format(requests=requests))
        steps, finished = run.summary["steps"], run.summary["requests"]["finished"]
        each.append(run.summary["wall_s"] / steps)
        print(
            f"{finished:,} of {requests:,} requests, {steps:,} steps: {run.wall_s:.0f} s by the clock, "
            f"{run.cpu_s:.0f} s of processor, {1e6 * each[-1]:.1f} us a step, {run.peak_mb:,.0f} MB"
        )
        missed |= finished < requests
    missed |= times == 1 and (run.wall_s > MOST_S or run.peak_mb > MOST_MB)
    return int(missed or each[1] > UNEVEN * each[0])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
