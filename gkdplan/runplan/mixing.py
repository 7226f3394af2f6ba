"""How many rows of each file an epoch holds: the one rule that the outline and the runtime obey."""

from collections.abc import Sequence


def rows_of_files(weights: Sequence[float], num_rows: int) -> tuple[int, ...]:
    """`num_rows` in the proportion of `weights`: Hamilton's method of largest remainders, the
    earlier file first where they are equal. They sum to `num_rows`."""
    total = sum(weights)
    exact = [weight / total * num_rows for weight in weights]
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: num_rows - sum(whole)]:
        whole[i] += 1
    return tuple(whole)
