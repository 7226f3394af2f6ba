"""Numbers that remember how they were made: pricing done in them yields its own formula."""

from collections.abc import Mapping
from fractions import Fraction

Monomial = tuple[tuple[str, int], ...]
"""Symbols with their exponents, in the order of the symbols' names; () is a bare number."""


class Quantity(int):
    """An integer and the polynomial that it is the value of: monomial -> coefficient.

    Sums, differences, products and whole quotients of quantities are quantities; what a choice
    (`min`, `max`, a comparison) picks keeps its formula. Any other operation leaves a bare int.
    """

    polynomial: Mapping[Monomial, Fraction]

    def __new__(cls, value: int, polynomial: Mapping[Monomial, Fraction]) -> "Quantity":
        quantity = super().__new__(cls, value)
        quantity.polynomial = {m: c for m, c in polynomial.items() if c}
        return quantity

    def __add__(self, other: int) -> "Quantity":
        if not isinstance(other, int):
            return NotImplemented  # a float would be cut to a whole number
        total = dict(self.polynomial)
        for monomial, coefficient in polynomial_of(other).items():
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
        return Quantity(int(self) + int(other), total)

    def __mul__(self, other: int) -> "Quantity":
        if not isinstance(other, int):
            return NotImplemented  # a list that is repeated
        product: dict[Monomial, Fraction] = {}
        for left, a in self.polynomial.items():
            for right, b in polynomial_of(other).items():
                monomial = _times(left, right)
                product[monomial] = product.get(monomial, Fraction(0)) + a * b
        return Quantity(int(self) * int(other), product)

    def __neg__(self) -> "Quantity":
        return self * -1

    def __sub__(self, other: int) -> "Quantity":
        return self + -other

    def __rsub__(self, other: int) -> "Quantity":
        return -self + other

    def __floordiv__(self, other: int) -> "int":
        return _divide(self, other)

    def __rfloordiv__(self, other: int) -> "int":
        return _divide(other, self)

    __radd__ = __add__
    __rmul__ = __mul__


def named(name: str, value: int) -> int:
    """A symbol of this value; 1 needs no name, and 0 has no part in a formula."""
    return Quantity(value, {((name, 1),): Fraction(1)}) if value > 1 else value


def polynomial_of(number: int) -> Mapping[Monomial, Fraction]:
    """That of a quantity; a bare number is a constant."""
    if isinstance(number, Quantity):
        return number.polynomial
    return {(): Fraction(number)}


def _divide(dividend: int, divisor: int) -> int:
    """The whole quotient; (x - x mod y) / y, so that its formula is exact where it is rounded.

    A divisor that is a sum has no reciprocal here: the quotient is a bare number then.
    """
    value, remainder = divmod(int(dividend), int(divisor))
    if len(polynomial_of(divisor)) != 1:
        return value
    ((monomial, coefficient),) = polynomial_of(divisor).items()
    inverse = tuple((name, -exponent) for name, exponent in monomial)
    exact = Quantity(int(dividend), polynomial_of(dividend)) - remainder
    reciprocal = Quantity(1, {inverse: 1 / coefficient})
    return Quantity(value, (exact * reciprocal).polynomial)


def _times(left: Monomial, right: Monomial) -> Monomial:
    exponents = dict(left)
    for name, exponent in right:
        exponents[name] = exponents.get(name, 0) + exponent
    return tuple(sorted((name, e) for name, e in exponents.items() if e))
