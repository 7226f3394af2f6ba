"""Each TOML block of a page holds keys that a plan has, with values that it takes."""

import json
import re

import pytest
from pages import PAGES, ROOT, fences, read

from gkdplan.spec.load import load_plan

SCHEMA = json.loads((ROOT / "schemas" / "plan.schema.json").read_text())

WITH_PLANS = [page for page in PAGES if fences(page, "toml")]
UNLIKE_A_PLAN = {"GK001", "GK002", "GK003"}


@pytest.mark.parametrize("page", WITH_PLANS)
def test_a_part_of_a_plan_has_keys_and_values_of_a_plan(page: str):
    for fence in fences(page, "toml"):
        findings = load_plan(page, fence.text).diagnostics
        wrong = [finding for finding in findings if finding.code in UNLIKE_A_PLAN]
        assert wrong == [], fence.text


def test_some_pages_have_parts_of_plans():
    assert len(WITH_PLANS) >= 5


@pytest.mark.parametrize("page", PAGES)
def test_a_key_that_a_page_names_is_one_of_the_plan(page: str):
    tables = "|".join(SCHEMA["properties"])
    named = set(re.findall(rf"`((?:{tables})(?:\.[a-z_]+)+)(?: =[^`]*)?`", read(page)))
    assert [key for key in sorted(named) if not _is_key(key.split("."))] == []


def _is_key(path: list[str]) -> bool:
    """Of the plan's schema, through its references."""
    at = SCHEMA
    for name in path:
        at = at.get("properties", {}).get(name)
        if at is None:
            return False
        for choice in (at, *at.get("anyOf", ())):
            if "$ref" in choice:
                at = SCHEMA["$defs"][choice["$ref"].rpartition("/")[2]]
    return True
