"""Why a policy chose what it chose, and what became of a request: a recorded run, run again and looked into."""

from __future__ import annotations

from sdsim.explanation.life import Life, explain_request
from sdsim.explanation.step import Explanation, explain_step

__all__ = ["Explanation", "Life", "explain_request", "explain_step"]
