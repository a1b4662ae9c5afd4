"""Scripts that complete `sdsim`, its commands and their options in a shell, written by shtab from their parsers."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdsim.errors import ScenarioError, did_you_mean

SHELLS = ("bash", "zsh", "tcsh")


def completion_script(commands: Mapping[str, tuple[Any, str]], words: Sequence[str]) -> str:
    """Return the script for the shell in *words*; *commands* are modules with a `parser`, and what they do.

    Raises ScenarioError for another shell, or without shtab.
    """
    if len(words) != 1 or words[0] not in SHELLS:
        near = did_you_mean(" ".join(words), SHELLS)
        found = f"found {' '.join(words)!r}; allowed: {', '.join(SHELLS)}{near}"
        raise ScenarioError(f"--print-completion: {found}; write sdsim --print-completion bash")
    try:
        import shtab
    except ImportError:
        raise ScenarioError("--print-completion: needs shtab; install it: pip install 'sdsim[completion]'") from None
    whole = argparse.ArgumentParser("sdsim")
    parsers = whole.add_subparsers()
    for name, (module, about) in commands.items():
        one = parsers.add_parser(name, parents=[module.parser()], add_help=False, help=about)
        for action in one._actions:
            if action.type is Path or not action.option_strings:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(whole, words[0])
    return script
