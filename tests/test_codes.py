"""The code table names every code that the program can print, and no other."""

import re
from pathlib import Path

import gkdplan
from gkdplan.codes import CODES

SOURCES = Path(gkdplan.__file__).parent


def test_every_code_in_the_source_has_a_row_and_every_row_is_used():
    used = set()
    for path in SOURCES.rglob("*.py"):
        if "codes" not in path.relative_to(SOURCES).parts[0]:
            used |= set(re.findall(r'"(GK\d{3})"', path.read_text(encoding="utf-8")))
    assert used == set(CODES)


def test_titles_are_short_and_lower_case():
    for code, row in CODES.items():
        assert len(row.title) <= 72, code
        assert not row.title[0].isupper() or row.title.startswith("EOS"), code
        assert not row.title.endswith("."), code
        assert row.why.endswith("."), code
        assert row.mend.endswith("."), code
