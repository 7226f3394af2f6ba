"""The page of flags is the tables', and the tables name flags once."""

from pathlib import Path

from gkdplan.spec.vocabulary import plan_schema
from gkdplan.swift import keys
from gkdplan.swift.reference import TOGETHER, reference
from gkdplan.swift.remarks import HAS_NONE, NEEDS_NONE

PAGE = Path(__file__).parents[2] / "docs" / "from_ms_swift.md"


def test_the_page_is_written_from_the_tables() -> None:
    assert PAGE.read_text() == reference(), (
        "python -m gkdplan.swift.reference > docs/from_ms_swift.md"
    )


def test_a_flag_that_is_a_key_is_never_one_that_is_none() -> None:
    direct = {name for name, _ in keys.DIRECT.values()}
    together = {name for names, _ in TOGETHER for name in names.replace(",", " ").split()}
    assert not direct & (set(HAS_NONE) | set(NEEDS_NONE))
    assert not together & (set(HAS_NONE) | direct)


def test_every_key_is_one_of_a_plan() -> None:
    for key in keys.DIRECT:
        schema = plan_schema()
        for part in key.split("."):
            options = schema.get("anyOf", [schema])
            table = next(option for option in options if "properties" in option)
            schema = table["properties"][part]
