"""A real bash completes commands, options, codes, models and devices; files are its own to find."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The command under its own name on the path."""
    command = tmp_path / "gkdplan"
    command.write_text(
        f"#!{sys.executable}\nfrom gkdplan.cli.main import main\n\nmain()\n", encoding="utf-8"
    )
    command.chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def complete(environment: dict[str, str], *words: str) -> list[str]:
    """What bash offers for the last word, by the script that `--show-completion` prints."""
    script = (
        'source <(gkdplan --show-completion); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_gkdplan_completion gkdplan; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "-c", script, "bash", "gkdplan", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("ex",), ["export", "explain"]),
        (("memory", "--ex"), ["--explain"]),
        (("explain", "GK20"), ["GK201", "GK202", "GK203"]),
        (("init", "--student", "Qwen/Qwen3-0"), ["Qwen/Qwen3-0.6B"]),
        (("init", "--device", "h100"), ["h100-80gb"]),
    ],
)
def test_bash_offers(words: tuple[str, ...], offered: list[str], environment: dict[str, str]):
    found = complete(environment, *words)
    assert set(offered) <= set(found)
    assert all(one.startswith(words[-1]) for one in found)


def test_a_plan_is_the_shells_to_find(environment: dict[str, str]):
    assert complete(environment, "check", "pl") == []
