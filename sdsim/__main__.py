"""`python -m sdsim`: the commands, with an example each."""

from __future__ import annotations

COMMANDS = {
    "run": ("replay a scenario and compare its policies", "python -m sdsim.run scenarios/bursty.yaml"),
    "predict": (
        "step times and speedups over batch and draft length",
        "python -m sdsim.predict --model qwen2-57b-a14b --draft qwen2-0.5b --gpu h200",
    ),
    "profile_gpu": (
        "measure this GPU's kernels into a calibration file",
        "python -m sdsim.profile_gpu --model qwen3-30b-a3b --out mine.json --minutes 10",
    ),
    "make_trace": (
        "write a generated request trace",
        "python -m sdsim.make_trace --kind conv --seconds 600 --out chat.jsonl.gz",
    ),
}


def overview() -> str:
    """Return the commands, what each does and an example."""
    lines = ["When does speculative decoding pay for a Mixture-of-Experts model, and how should it be scheduled?", ""]
    for name, (purpose, example) in COMMANDS.items():
        lines += [f"  sdsim.{name:<13}{purpose}", f"  {'':<19}{example}", ""]
    return "\n".join([*lines, "Each has --help."])


if __name__ == "__main__":
    print(overview())
