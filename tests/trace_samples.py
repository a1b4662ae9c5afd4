"""Small traces of every format, and what the tests of their readers share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdsim.errors import TraceError
from sdsim.trace_readers import Rows, open_trace

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
"""Public traces; tests that need them are skipped where they are not."""

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109\r\n2023-11-16 18:15:51.2224670,879,0\r\n2023-11-17 00:00:01.5,91,16"
)
MOONCAKE = "".join(
    f'{{"timestamp": {t}, "input_length": {p}, "output_length": 3, "hash_ids": [0, 1]}}\n'
    for t, p in ((0, 10), (0, 11), (0, 12), (2999, 13), (6000, 14), (6000, 15))
)
BURSTGPT = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,,12.5,ChatGPT,472,18,490,Conversation log\n45.0,7,1,GPT-4,1087,230,1317,API log\n45,7,1,GPT-4,9,0,9,API log\n"
)
JSONL = (
    '{"arrival_s": 2.5, "prompt_tokens": 374, "output_tokens": 44, "class": "chat"}\n'
    '{"arrival_s": 3, "prompt_tokens": 5.0, "output_tokens": 7}\n'
    '{"timestamp": 4, "input_length": 8, "output_length": 9, "class": "code", "x": null}\n'
)
SERVEGEN = "0,0,0,,0,0\n600,0.5,1,Gamma,1.0,2\n1200,0.1,3,Weibull,0.5,7\n"
DATASET = {
    "0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": {"3": 1.0}},
    "600": {"input_tokens": "{}", "output_tokens": "{}"},
}
GOOD = {"azure": AZURE, "mooncake": MOONCAKE, "burstgpt": BURSTGPT, "jsonl": JSONL}


def save(folder: Path, content: str | bytes, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def gather(kind: str, path: Path, seed: int = 0, **options: object) -> Rows:
    blocks = list(open_trace(kind, path, seed, **options))  # type: ignore[arg-type]
    columns = [np.concatenate([getattr(b, n) for b in blocks]) for n in ("arrival_s", "prompt_tokens", "output_tokens")]
    labels = None if blocks[0].labels is None else np.concatenate([b.labels for b in blocks])
    return Rows(*columns, labels)


def problems(kind: str, path: Path) -> list[str]:
    with pytest.raises(TraceError) as caught:
        open_trace(kind, path)
    return [line.removeprefix(str(path)) for line in caught.value.problems]


def shared(path: str) -> Path:
    """Return the public file or folder *path*, or skip the test."""
    if not (SHARED / path).exists():
        pytest.skip(f"needs ../shared/data/{path}, which is not part of the project")
    return SHARED / path
