"""The rows of the code table read alike."""

from gkdplan.codes import CODES


def test_titles_are_short_and_lower_case():
    for code, row in CODES.items():
        assert len(row.title) <= 72, code
        assert not row.title[0].isupper() or row.title.startswith("EOS"), code
        assert not row.title.endswith("."), code
        assert row.why.endswith("."), code
        assert row.mend.endswith("."), code
