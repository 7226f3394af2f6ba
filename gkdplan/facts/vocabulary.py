"""How the token -> id maps of two tokenizers differ; what follows from it the planner says."""

from dataclasses import dataclass

from gkdplan.facts.model import TokenizerFacts


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """A token with its two ids; None where a tokenizer does not know the token."""

    token: str
    left: int | None
    right: int | None


@dataclass(frozen=True, slots=True)
class Differences:
    """How many tokens have another id on the other side, and the first of them by id."""

    num_tokens: int
    first: tuple[TokenDifference, ...]


def differences(left: TokenizerFacts, right: TokenizerFacts, max_first: int = 5) -> Differences:
    """The tokens whose ids differ between two tokenizers; none if and only if the maps are equal.

    Pure, and immediate for maps of the same fingerprint.
    """
    if left.fingerprint == right.fingerprint:
        return Differences(0, ())
    tokens = {token for token, _ in left.tokens.items() ^ right.tokens.items()}
    rows = [TokenDifference(t, left.tokens.get(t), right.tokens.get(t)) for t in tokens]
    first = sorted(rows, key=_lowest_id)[:max_first]
    return Differences(len(rows), tuple(first))


def _lowest_id(row: TokenDifference) -> tuple[int, str]:
    return min(side for side in (row.left, row.right) if side is not None), row.token
