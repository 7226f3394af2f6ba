from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkdplan.planner.memory.quantity import Quantity, named, polynomial_of

VALUES = {"a": 7, "b": 12, "c": 64}


def value_of(number: int) -> Fraction:
    """The polynomial of a number, evaluated."""
    total = Fraction(0)
    for monomial, coefficient in polynomial_of(number).items():
        product = coefficient
        for name, exponent in monomial:
            product *= Fraction(VALUES[name]) ** exponent
        total += product
    return total


leaves = st.one_of(
    st.integers(2, 50), st.sampled_from(sorted(VALUES)).map(lambda name: named(name, VALUES[name]))
)
operations = st.sampled_from(
    [
        lambda x, y: x + y,
        lambda x, y: x - y,
        lambda x, y: x * y,
        lambda x, y: x // y if y else x,
        lambda x, y: -(-x // 64) * 64 + y,
        max,
        min,
    ]
)
expressions = st.recursive(
    leaves, lambda inner: st.tuples(operations, inner, inner).map(lambda t: t[0](t[1], t[2]))
)


@given(expressions)
def test_a_number_is_what_its_formula_comes_to(number):
    assert value_of(number) == number


def test_like_products_are_one_term():
    a, b = (named(name, VALUES[name]) for name in "ab")
    assert polynomial_of(sum([a * b, b * a, 3 * a])) == {
        (("a", 1), ("b", 1)): 2,
        (("a", 1),): 3,
    }


def test_what_divides_cancels():
    a, b = (named(name, VALUES[name]) for name in "ab")
    assert polynomial_of(a * b * 5 // b) == {(("a", 1),): 5}


def test_a_rounded_quotient_says_what_was_left_out():
    c = named("c", VALUES["c"])
    # 64 // 5 = 12, and (64 - 4) / 5 = 12
    assert polynomial_of(c // 5) == {(("c", 1),): Fraction(1, 5), (): Fraction(-4, 5)}


def test_a_quantity_counts_as_any_integer():
    two = named("n", 2)
    assert [0] * two == [0, 0]
    assert list(range(two)) == [0, 1]
    assert not isinstance(named("n", 1), Quantity)
    with pytest.raises(ZeroDivisionError):
        two // 0
