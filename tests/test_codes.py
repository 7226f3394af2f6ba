"""The rows of the code table read alike."""

from pathlib import Path

from gkdplan.codes import CODES
from gkdplan.codes.reference import reference

PAGE = Path(__file__).parents[1] / "docs" / "codes.md"


def test_titles_are_short_and_lower_case():
    for code, row in CODES.items():
        assert len(row.title) <= 72, code
        assert not row.title[0].isupper() or row.title.startswith("EOS"), code
        assert not row.title.endswith("."), code
        assert row.why.endswith("."), code
        assert row.mend.endswith("."), code


def test_the_page_of_codes_is_the_table():
    assert PAGE.read_text() == reference(), "python -m gkdplan.codes.reference > docs/codes.md"


def test_every_code_has_its_place_on_the_page():
    assert [code for code in CODES if f"### {code}: " not in PAGE.read_text()] == []
