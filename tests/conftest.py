"""For all tests: what hypothesis is asked of."""

from hypothesis import settings

# A machine that others share stalls now and then: no example has a deadline of its own.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
