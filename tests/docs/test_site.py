"""The pages make a site, and every link of theirs leads somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, ROOT, read


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it: a link or an anchor that leads nowhere is an error."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(place)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return place


def test_every_page_is_in_the_site(site: Path):
    pages = {page.relative_to(site).with_suffix("").as_posix() for page in site.rglob("*.html")}
    named = {page.removeprefix("docs/").removesuffix(".md") for page in PAGES if "/" in page}
    assert named - {"codes/README"} <= pages
    assert "codes/GK203" in pages


def test_a_reader_of_the_site_asks_no_other_host(site: Path):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]*)\"|<link[^>]*\shref=\"([^\"]*)\"",
            page.read_text(encoding="utf-8"),
        )
        assert [a or b for a, b in loaded if "//" in (a or b)] == [], page


@pytest.mark.parametrize("page", [page for page in PAGES if "/" not in page])
def test_every_link_of_a_page_beside_the_site_leads_somewhere(page: str):
    links = re.findall(r"\]\(([^)#:]+)[^):]*\)", read(page))
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_tree_that_a_page_names_is_there(page: str):
    paths = re.findall(r"`((?:gkdplan|plans|tests|docs|benchmarks)/[^`*\s]+)`", read(page))
    there = [path for path in paths if "NAME" not in path]
    assert [path for path in there if not (ROOT / path.split("::")[0]).exists()] == []
