"""What all commands share: how an error ends them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from sdsim.errors import SdsimError

OK, BAD_INPUT, SLO_MISSED, INTERRUPTED = 0, 2, 3, 130


def run_command(main: Callable[[Sequence[str]], int]) -> None:
    """Run *main* on the command line's words and exit: 2 with one line a mistake for what the user can mend."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except SdsimError as error:
        print(error, file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    sys.exit(code)
