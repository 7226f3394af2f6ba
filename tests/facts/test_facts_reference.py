"""The page of families is what the tables say."""

from pathlib import Path

from gkdplan.facts.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def test_the_page_is_written_from_the_tables() -> None:
    assert PAGE.read_text() == reference(), "python -m gkdplan.facts.reference > docs/families.md"
