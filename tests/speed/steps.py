"""Ten thousand requests on eight replicas, with drafts and without: `python -m tests.speed.steps` from the checkout.

The best of several processes: what else a machine does only makes a run slower.
"""

from __future__ import annotations

import sys

from tests.speed.process import measured

SCENARIO = """
model: qwen3-30b-a3b
draft: {{kind: model, model: qwen2-0.5b}}
gpus: 1 x h200
replicas: 8
replica: {{max_num_seqs: 128}}
engine: ideal
workload: {{kind: poisson, rate: 400/s, limit: 10000, lengths: {{prompt: 500, output: 200}}}}
acceptance: {{kind: iid, rate: 0.8}}
policy: {policy}
seed: 7
"""
FASTEST = {"off": 100_000, "goodput": 35_000}
"""Steps per second that each policy is to reach, on one core."""
MOST_S, MOST_MB = 2.5, 250
"""Of the process without drafts."""


def main(rounds: int) -> int:
    """Print the best of *rounds* of each policy; return 1 where one misses its aim."""
    missed = False
    for policy, fastest in FASTEST.items():
        runs = [measured(SCENARIO.format(policy=f'{{kind: "{policy}"}}')) for _ in range(rounds)]
        rate = max(run.summary["steps_per_wall_s"] for run in runs)
        wall_s, peak_mb = min(run.wall_s for run in runs), max(run.peak_mb for run in runs)
        first = runs[0].summary
        print(
            f"{policy}: {rate:,.0f} steps/s (aim {fastest:,}) at a mean batch of {first['mean_batch']:.0f}; "
            f"{first['requests']['finished']:,} requests in {wall_s:.2f} s and {peak_mb:.0f} MB, start to end"
        )
        missed |= rate < fastest or (policy == "off" and (wall_s > MOST_S or peak_mb > MOST_MB))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
