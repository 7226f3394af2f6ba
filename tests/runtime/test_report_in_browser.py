"""The page of a real run, and of a lock, in headless Chromium: every chart is there, nothing goes
wrong or out, and it can be read at 400 pixels, in light and in dark."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tiny_plans import make_home, plan_text

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
COMMAND = (sys.executable, "-c", "from gkdplan.cli.main import main; main()")
LENGTH = {
    "steps": 6,
    "save_interval": "6\neval_interval = 3",
    "lmbda": 0.4,
    "seq_kd": 0.5,
    "offload": "cpu",
}
WIDTHS, SCHEMES = (400, 1200), ("light", "dark")
CHARTS = {
    "memory": ".bar.planned .segment",
    "residency": ".timeline .block",
    "sources": ".strip span",
    "layout": ".mesh > *",
    "steps": ".steps li",
}
OF_A_RUN = {
    "loss": ".chart .curve, .chart .dot",
    "time": ".bar.time .segment",
    "measured": ".bar.measured .segment",
    "samples": ".cards .completion",
    "tokens": ".cards .tokens span",
}
BOX = "element => { const box = element.getBoundingClientRect(); return box.width * box.height }"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """Of a run that evaluates twice and samples from all sources, and of its lock."""
    place = tmp_path_factory.mktemp("report")
    home = make_home(place / "home")
    (place / "plan.toml").write_text(plan_text(home, "run", devices=2, **LENGTH))
    for words in (["run"], ["plan", "-o", "tiny.json"], ["report", "tiny.json"]):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [*COMMAND, *words]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return {"run": place / "run/report.html", "lock": place / "tiny.html"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(params=[(w, s) for w in WIDTHS for s in SCHEMES], ids=lambda p: f"{p[0]} {p[1]}")
def page(request, browser: Browser) -> Iterator[Page]:
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("kind", ["run", "lock"])
def test_a_page_is_whole_in_a_browser(kind: str, page: Page, pages: dict[str, Path]):
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda failure: wrong.append(str(failure)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[kind].as_uri())
    for name, selector in (CHARTS | (OF_A_RUN if kind == "run" else {})).items():
        parts = page.locator(selector).all()
        assert len(parts) > 1, name
        assert sum(part.evaluate(BOX) for part in parts) > 100, name
    assert wrong == []
    assert asked == [pages[kind].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    is_dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (_light(ground) < _light(ink)) == is_dark
    if place := os.environ.get("GKDPLAN_SCREENSHOTS"):
        name = f"{kind}_{page.viewport_size['width']}_{'dark' if is_dark else 'light'}.png"
        page.screenshot(path=str(Path(place) / name), full_page=True)


def test_every_finding_of_a_run_is_on_its_page(pages: dict[str, Path], browser: Browser):
    lines = pages["run"].with_name("diagnostics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert found
    page = browser.new_page()
    page.goto(pages["run"].as_uri())
    shown = page.locator(".findings li").all_inner_texts()
    assert len(shown) == len(found)
    for finding, text in zip(found, shown, strict=True):
        assert finding["code"] in text
        assert finding["message"] in text


def _light(colour: str) -> int:
    return sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(","))
