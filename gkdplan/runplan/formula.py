"""The formula of a number of the ledger: what the planner explains and the report prints."""

from dataclasses import dataclass

from gkdplan.vocab import Phase


@dataclass(frozen=True, slots=True)
class Symbol:
    """A number that a formula is written in, such as h, the hidden size."""

    name: str
    value: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Term:
    """A product, such as `12 b s h / t`; the same with its numbers put in; its bytes."""

    formula: str
    numbers: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """One number of the ledger: the bytes of a row in a phase, on one rank of a class.

    The terms sum to `num_bytes`, largest first; `symbols` are those that occur in them. `source`
    says what the formula follows.
    """

    phase: Phase
    row: str
    ranks: tuple[tuple[int, int], ...]
    num_bytes: int
    meaning: str
    source: str
    terms: tuple[Term, ...]
    symbols: tuple[Symbol, ...]
