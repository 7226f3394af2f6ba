"""How counts are written for people."""

import pytest

from gkdplan.units import format_count


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (134_515_008, "135 M"),
        (999_400_000, "999 M"),
        (999_885_952, "1 B"),
        (7_615_616_512, "7.62 B"),
    ],
)
def test_a_count_has_three_digits_of_the_unit_that_it_rounds_to(count: int, text: str) -> None:
    assert format_count(count) == text
