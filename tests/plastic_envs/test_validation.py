"""Tests that validation returns Python values and raises errors with the name, the bounds and the value."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plastic_envs import validation
from plastic_envs.validation import check_episode_size, flag, generator, one_of, real_number, whole_number

INTEGER_TYPES = (int, np.int8, np.uint8, np.int64, np.uint64, np.asarray)
REAL_TYPES = (float, np.float32, np.float64, np.longdouble, Decimal, Fraction, np.asarray)
NOT_NUMBERS = st.one_of(
    st.none(),
    st.booleans(),
    st.booleans().map(np.bool_),
    st.booleans().map(np.asarray),
    st.text(),
    st.integers().map(str),
    st.binary(max_size=3),
    st.complex_numbers(),
    st.lists(st.integers(), max_size=2),
    st.integers(0, 9).map(lambda number: np.array([number])),
    st.just(np.datetime64(1, "s")),
)


@given(st.integers(0, 100), st.sampled_from(INTEGER_TYPES))
def test_whole_number_returns_an_int(number, kind):
    result = whole_number("n", kind(number), at_least=0, at_most=100)
    assert type(result) is int
    assert result == number


@given(st.integers(), st.integers())
def test_whole_number_refuses_numbers_below_the_lower_bound(number, at_least):
    if number >= at_least:
        assert whole_number("n", number, at_least=at_least) == number
        return
    with pytest.raises(ValueError, match=f"^n must be at least {at_least}, got {number}$"):
        whole_number("n", number, at_least=at_least)


@given(st.integers(-20, 20), st.integers(-10, 0), st.integers(0, 10))
@example(0, 0, 0)
def test_whole_number_bounds_are_inclusive(number, low, high):
    if low <= number <= high:
        assert whole_number("n", number, at_least=low, at_most=high) == number
        return
    with pytest.raises(ValueError, match=f"^n must be between {low} and {high}, got {number}$"):
        whole_number("n", number, at_least=low, at_most=high)


@given(st.one_of(NOT_NUMBERS, st.floats(), st.floats().map(np.float64), st.floats().map(np.asarray), st.decimals()))
@example(2.0)
@example(Decimal(2))
@example(Fraction(2))
def test_whole_number_refuses_other_types(value):
    with pytest.raises(TypeError, match=f"^n must be a whole number of at least 0, got {re.escape(repr(value))}$"):
        whole_number("n", value, at_least=0)
    with pytest.raises(TypeError, match=f"^n must be a whole number between 0 and 9, got {re.escape(repr(value))}$"):
        whole_number("n", value, at_least=0, at_most=9)


@given(st.floats(-1, 1, width=32), st.sampled_from(REAL_TYPES))
def test_real_number_returns_a_float(number, kind):
    result = real_number("x", kind(number), at_least=-1, at_most=1)
    assert type(result) is float
    assert result == number


@given(st.integers(0, 100), st.sampled_from(INTEGER_TYPES))
def test_real_number_accepts_whole_numbers(number, kind):
    result = real_number("x", kind(number), at_least=0)
    assert type(result) is float
    assert result == number


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(-1e308)
def test_real_number_has_no_bounds_by_default(number):
    assert real_number("x", number) == number


BOUNDS = st.floats(-10, 10)


@given(BOUNDS, BOUNDS, BOUNDS, BOUNDS, BOUNDS)
@example(0.0, 0.0, 0.0, -1.0, 1.0)
@example(0.0, -1.0, 1.0, 0.0, 1.0)
@example(0.0, -1.0, 1.0, -1.0, 0.0)
@example(0.0, -1.0, 0.0, -0.5, 1.0)
def test_real_number_applies_all_bounds(number, at_least, at_most, above, below):
    bounds = {"at_least": at_least, "at_most": at_most, "above": above, "below": below}
    if at_least <= number <= at_most and above < number < below:
        assert real_number("x", number, **bounds) == number
        return
    with pytest.raises(ValueError, match=r"^x must be a finite number .*, got"):
        real_number("x", number, **bounds)


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({}, "a finite number"),
        ({"at_least": 0}, "a finite number of at least 0"),
        ({"at_most": 1.5}, "a finite number of at most 1.5"),
        ({"at_least": 0, "at_most": 1}, "a finite number between 0 and 1"),
        ({"above": 0}, "a finite number greater than 0"),
        ({"below": 1}, "a finite number less than 1"),
        ({"above": 0, "at_most": 1}, "a finite number greater than 0 and at most 1"),
        ({"at_least": 0, "below": 1}, "a finite number of at least 0 and less than 1"),
        ({"above": 0, "below": 1}, "a finite number greater than 0 and less than 1"),
    ],
)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-math.inf, ValueError),
        (np.float32("nan"), ValueError),
        (np.array(np.inf), ValueError),
        (Decimal("NaN"), ValueError),
        (Decimal("sNaN"), ValueError),
        (Decimal("-Infinity"), ValueError),
        (10**400, ValueError),
        (Fraction(-(10**400)), ValueError),
        (Decimal("1e400"), ValueError),
        ("0.5", TypeError),
        (True, TypeError),
    ],
)
def test_real_number_refuses_numbers_that_are_not_finite(bounds, text, value, error):
    with pytest.raises(error, match=f"^x must be {re.escape(text)}, got {re.escape(repr(value))}$"):
        real_number("x", value, **bounds)


@pytest.mark.parametrize("bound", ["above", "below"])
@pytest.mark.parametrize("kind", REAL_TYPES)
def test_real_number_exclusive_bounds_exclude_the_bound(bound, kind):
    with pytest.raises(ValueError, match=r"^x must be a finite number (greater|less) than 1, got"):
        real_number("x", kind(1.0), **{bound: 1})


@given(NOT_NUMBERS)
def test_real_number_refuses_other_types(value):
    with pytest.raises(TypeError, match=f"^x must be a finite number of at least 0, got {re.escape(repr(value))}$"):
        real_number("x", value, at_least=0)


@given(st.booleans(), st.sampled_from((bool, np.bool_, np.asarray)))
def test_flag_returns_a_bool(value, kind):
    assert flag("download", kind(value)) is value


@given(st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.integers(0, 1).map(np.int64)))
@example(np.array([True]))
@example(np.array(1))
@example("True")
@example(Decimal(1))
def test_flag_refuses_other_types(value):
    with pytest.raises(TypeError, match=f"^download must be True or False, got {re.escape(repr(value))}$"):
        flag("download", value)


@given(st.sampled_from(("train", "test")), st.sampled_from((str, np.str_)))
def test_one_of_returns_a_known_string(value, kind):
    assert one_of("split", kind(value), ("train", "test")) == value


@given(st.text().filter(lambda text: text not in ("train", "test")))
@example("")
@example("tr")
def test_one_of_refuses_other_strings(value):
    with pytest.raises(ValueError, match=f"^split must be one of train, test, got {re.escape(repr(value))}$"):
        one_of("split", value, ("train", "test"))


@pytest.mark.parametrize("value", [None, True, 3, b"train", ["train"], np.zeros(3), np.array("train")])
def test_one_of_refuses_other_types(value):
    with pytest.raises(TypeError, match=f"^split must be one of train, test, got {re.escape(repr(value))}$"):
        one_of("split", value, ("train", "test"))


def test_episode_size_is_limited():
    check_episode_size(validation.LARGEST_EPISODE, length=3)
    size = validation.LARGEST_EPISODE + 1
    message = f"an episode must have at most {size - 1} entries, got {size} from length=3, width=4"
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_episode_size(size, length=3, width=4)


def test_generator_must_be_of_numpy():
    rng = np.random.default_rng(0)
    assert generator("rng", rng) is rng
    for value in (None, 0, np.random, np.random.RandomState(0)):
        with pytest.raises(TypeError, match=r"^rng must be a numpy\.random\.Generator, such as default_rng\(0\), got"):
            generator("rng", value)
