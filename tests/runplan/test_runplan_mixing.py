"""Rows of an epoch by weights."""

import pytest

from gkdplan.runplan.mixing import rows_of_files


@pytest.mark.parametrize(
    ("weights", "num_rows", "expected"),
    [
        ((0.17, 0.83), 10, (2, 8)),  # 1.7 and 8.3: one row is left, for the larger remainder
        ((3.0, 1.0), 256, (192, 64)),
        ((1.0, 1.0, 1.0), 10, (4, 3, 3)),  # 3.33 each: the earlier file first
        ((1.0, 0.001), 48, (48, 0)),
        ((2.0,), 7, (7,)),
        ((1.0, 2.0), 0, (0, 0)),
    ],
)
def test_largest_remainders_are_rounded_up(weights, num_rows, expected) -> None:
    assert rows_of_files(weights, num_rows) == expected
