"""The trace formats that sdsim reads, told apart by a first line."""

from __future__ import annotations

import re

from sdsim.units import shown

_SIGNS = (
    ("azure", re.compile(r"TIMESTAMP,ContextTokens,GeneratedTokens")),
    ("burstgpt", re.compile(r"Timestamp,.*Request tokens,")),
    ("mooncake", re.compile(r'\{.*"timestamp".*"input_length".*"hash_ids"')),
    ("jsonl", re.compile(r'\{.*("arrival_s"|"timestamp").*("prompt_tokens"|"input_length")')),
    ("servegen", re.compile(r"\d+(\.\d+)?,[^,]*,[^,]*,(Gamma|Weibull)?,[^,]*,[^,]*$")),
)


def looks_like(line: str) -> str | None:
    """Return the format whose first line *line* could be, or None."""
    return next((name for name, sign in _SIGNS if sign.match(line)), None)


def wrong_format(line: str, wanted: str, start: str) -> str:
    """Return the message for a file that begins with *line* where *wanted* begins with *start*."""
    guess = looks_like(line)
    remedy = "give another file, or its own format"
    if guess and guess != wanted:
        remedy = f"it looks like {guess}: set format: {guess}"
    return f"begins with {shown(line)}; the {wanted} format begins with {start}; {remedy}"
