"""What the README promises is there; tests/docs types its commands."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_stand_first_and_ci_calls_the_second():
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == [
        "make quickstart",
        "make test",
    ]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"quickstart", "test"} <= set(targets)
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "exec make test"


def test_the_shown_plan_is_the_file():
    (shown,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert shown == (ROOT / "plans/qwen2.5-7b-to-3b.toml").read_text(encoding="utf-8")
