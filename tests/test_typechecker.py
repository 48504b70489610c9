"""The annotations of the package are checked in the tests, in the sampled calls."""

from dataclasses import dataclass

import numpy as np
import pytest
import typechecker
from jaxtyping import Float, TypeCheckError
from typechecker import FEWER, FIRST, LATER, OFTEN, check, sampled

from tradeoff.scores import interval


def double(x: Float[np.ndarray, "n 2"], y: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    return x + x if y.any() else x[0]


@dataclass
class Point:
    x: float


RIGHT, WRONG = (np.ones((3, 2)), np.ones(3)), (np.ones((3, 2)), np.ones(4))


def calls_found_wrong(function, count):
    """Numbers of the calls with a wrong shape that are found."""
    found = []
    for call in range(1, count + 1):
        try:
            function(*WRONG)
        except TypeCheckError:
            found.append(call)
    return found


def test_first_calls_are_checked_and_then_fewer_and_fewer():
    checked = sampled(typechecker=check)(double)
    assert calls_found_wrong(checked, 300) == [*range(1, FIRST + 1), 16, 32, 64, 128, 256]
    typechecker.start_counting_anew()
    assert calls_found_wrong(checked, 1) == [1]
    assert np.array_equal(checked(*RIGHT), 2 * RIGHT[0])


def test_a_function_that_was_checked_often_is_checked_on_fewer_first_calls():
    checked = sampled(typechecker=check)(double)
    for _ in range(-(-OFTEN // FIRST)):
        typechecker.start_counting_anew()
        calls_found_wrong(checked, FIRST)
    typechecker.start_counting_anew()
    assert calls_found_wrong(checked, LATER) == [*range(1, FEWER + 1), LATER]


def test_a_function_made_anew_is_counted_with_those_before():
    def made():
        def double(x: Float[np.ndarray, "n 2"], y: Float[np.ndarray, " n"]) -> None:
            return None

        return sampled(typechecker=check)(double)

    found = [calls_found_wrong(made(), 1) for _ in range(FIRST + 1)]
    assert found == [[1]] * FIRST + [[]]


def test_what_is_returned_is_checked():
    with pytest.raises(TypeCheckError, match='return "array'):
        sampled(typechecker=check)(double)(np.ones((3, 2)), np.zeros(3))


def halved(number: int, names: list[str] | None = None) -> int:
    return number // 2 if number else "none"


def test_plain_types_are_checked_likewise():
    checked = sampled(typechecker=check)(halved)
    assert checked(4, ["a"]) == 2
    with pytest.raises(TypeCheckError, match="number"):
        checked("4")
    with pytest.raises(TypeCheckError, match="names"):
        checked(4, [1])
    with pytest.raises(TypeCheckError, match="return"):
        checked(0)


def test_a_data_class_is_checked_where_it_is_made():
    checked = sampled(typechecker=check)(Point)
    assert checked(1) == Point(1)  # An int is accepted as a float.
    with pytest.raises(TypeCheckError):
        checked("1")


def test_the_package_is_checked():
    with pytest.raises(TypeCheckError, match="level"):
        interval(np.ones(3), level="0.95")
