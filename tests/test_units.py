"""Quantities as people write them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.units import (
    COUNT,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    SHARE,
    GpuCount,
    Span,
    parse_duration,
    parse_gpus,
    parse_number,
    parse_rate,
    parse_whole,
    plain_number,
    shown,
)

NO_NUMBERS = [
    None,
    True,
    False,
    "",
    " ",
    ".",
    "-",
    "e3",
    "1e",
    "1 2",
    "12 bananas",
    "1,000",
    "nan",
    ".nan",
    "inf",
    "-.inf",
    "1e400",
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    [1],
    {"a": 1},
    1j,
    "٣",
    "1" * 65,
    "0x10",
]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2s", 2),
        ("50ms", 0.05),
        ("35ms", 0.035),
        ("250us", 0.00025),
        ("250 µs", 0.00025),
        ("5min", 300),
        ("1h", 3600),
        ("1.5 h", 5400),
        ("1d", 86400),
        (" 5 MIN ", 300),
        ("1e3ms", 1),
        ("1e3", 1000),
        ("7", 7),
        (7, 7),
        (0.5, 0.5),
        ("0s", 0),
        (np.float64(2.5), 2.5),
        (np.int64(3), 3),
    ],
)
def test_a_duration_becomes_seconds(written, seconds):
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, "5m", "1h30min", "2 seconds", "-2s", "1e308h", "12/s", "s", "1_0s"])
def test_what_is_no_duration_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^found .*; allowed: a time of 0 or more; write it such as 50ms, 2s"):
        parse_duration(wrong)


@pytest.mark.parametrize(
    ("written", "per_second"),
    [("12/s", 12), ("80/min", 80 / 60), ("5/h", 5 / 3600), ("86400/d", 1), ("12 / s", 12), (12, 12), ("1e3", 1000)],
)
def test_a_rate_becomes_per_second(written, per_second):
    assert parse_rate(written) == per_second


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, "12 bananas/s", "-12/s", "0/s", 0, "12/", "12s", "12/week", "1e400/s"])
def test_what_is_no_rate_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^found .*; allowed: a rate over 0; write it such as 12/s"):
        parse_rate(wrong)


def test_a_rate_of_0_can_be_allowed():
    assert parse_rate("0/s", NOT_NEGATIVE) == 0


@pytest.mark.parametrize(
    ("written", "gpus"),
    [
        ("1 x h200", GpuCount(1, "h200")),
        ("8 x H100", GpuCount(8, "h100")),
        ("8xh100", GpuCount(8, "h100")),
        ("2 \u00d7 b200", GpuCount(2, "b200")),
        ("h200", GpuCount(1, "h200")),
        (GpuCount(4, "a100"), GpuCount(4, "a100")),
    ],
)
def test_gpus(written, gpus):
    assert parse_gpus(written) == gpus
    assert parse_gpus(str(gpus)) == gpus


@pytest.mark.parametrize(
    "wrong", ["", "8", 8, "0 x h200", "-1 x h200", "1.5 x h200", "x h200", "8 x", "9" * 12 + "xh200", None]
)
def test_what_is_no_number_of_gpus_is_refused(wrong):
    with pytest.raises(
        ValueError, match=r"^found .*; allowed: a number of GPUs and their name; write it such as 1 x h200"
    ):
        parse_gpus(wrong)


@pytest.mark.parametrize(
    ("written", "number"), [("1e3", 1000), ("1.5e3", 1500), (".5", 0.5), ("5.", 5), ("-2", -2), (2, 2)]
)
def test_numbers_may_be_text(written, number):
    assert parse_number(written) == number


@pytest.mark.parametrize("wrong", NO_NUMBERS)
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^found .*; allowed: a number; write it"):
        parse_number(wrong)


@pytest.mark.parametrize("written", [1000, 1000.0, "1000", "1e3", "1000.0", np.int32(1000)])
def test_whole_numbers_may_be_text_or_floats(written):
    assert parse_whole(written, COUNT) == 1000
    assert type(parse_whole(written, COUNT)) is int


@pytest.mark.parametrize("wrong", [*NO_NUMBERS, 1.5, "1.5", 0, -3, 10**10])
def test_what_is_no_count_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^found .*; allowed: a whole number from 1 to 1,000,000,000; write it"):
        parse_whole(wrong, COUNT)


def test_large_whole_numbers_lose_no_digit():
    assert parse_whole(str(2**63 - 1)) == 2**63 - 1


@pytest.mark.parametrize(
    ("span", "inside", "outside", "said"),
    [
        (SHARE, [0, 0.5, 1], [-0.1, 1.1], "from 0 to 1"),
        (PART, [0.1, 1], [0, 1.1], "over 0, at most 1"),
        (POSITIVE, [1e-9, 1e9], [0, -1], "over 0"),
        (NOT_NEGATIVE, [0, 1e9], [-1e-9], "of 0 or more"),
        (Span(0.5, 1, open_high=True), [0.5, 0.99], [0.49, 1], "from 0.5, below 1"),
        (Span(), [-1e9, 1e9], [], ""),
    ],
)
def test_spans(span, inside, outside, said):
    assert all(x in span for x in inside)
    assert not any(x in span for x in outside)
    assert math.nan not in span
    assert str(span) == said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (False, "false"),
        (math.nan, "NaN"),
        (-math.inf, "-infinity"),
        (2.0, "2"),
        ("a\nb", r"'a\nb'"),
    ],
)
def test_shown(value, text):
    assert shown(value) == text


def test_integers_that_python_will_not_write_are_shown():
    assert shown(10**5000) == "a number of thousands of digits"


def test_what_is_shown_is_short_and_on_one_line():
    for value in ("x" * 10**6, "\n" * 100, list(range(1000)), {"a": {"b": ["c"] * 99}}, object()):
        assert len(shown(value)) < 400
        assert len(shown(value).splitlines()) == 1


@given(
    st.integers(0, 10**6),
    st.sampled_from([("us", Fraction(1, 10**6)), ("ms", Fraction(1, 1000)), ("min", Fraction(60))]),
)
def test_units_round_as_the_decimal_text_would(count, unit):
    name, factor = unit
    assert parse_duration(f"{count}{name}") == float(count * factor)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_number_is_that_number(number):
    assert plain_number(repr(number)) == plain_number(number) == number


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_anything_else_is_a_value_error(value):
    for parse in (parse_duration, parse_rate, parse_gpus, parse_number, parse_whole):
        try:
            parse(value)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
