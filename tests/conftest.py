"""For all tests: what hypothesis is asked of, and what is not timed."""

import sys

import pytest
from hypothesis import settings

# A machine that others share stalls now and then: no example has a deadline of its own.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is timed where coverage, or a debugger, slows each line."""
    if sys.gettrace() is not None:
        for item in items:
            if item.get_closest_marker("speed"):
                item.add_marker(pytest.mark.skip(reason="lines are traced, which takes time of its own"))
