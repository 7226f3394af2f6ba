"""The rows of the code table read alike."""

from pathlib import Path

from gkdplan.cli.code_pages import code_pages
from gkdplan.codes import CODES

PAGES = Path(__file__).parents[1] / "docs" / "codes"


def test_titles_are_short_and_lower_case():
    for code, row in CODES.items():
        assert len(row.title) <= 72, code
        assert not row.title[0].isupper() or row.title.startswith("EOS"), code
        assert not row.title.endswith("."), code
        assert row.why.endswith("."), code
        assert row.mend.endswith("."), code


def test_the_pages_of_codes_are_the_table():
    written = {page.name: page.read_text(encoding="utf-8") for page in PAGES.iterdir()}
    assert written == code_pages(), "python -m gkdplan.cli.code_pages docs/codes"


def test_every_code_is_in_the_list():
    listed = code_pages()["README.md"]
    assert [code for code in CODES if f"[{code}]({code}.md)" not in listed] == []
