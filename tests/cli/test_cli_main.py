"""The command line itself: its exits, its failures, and what it imports."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bad_plan_world import build_world
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gkdplan import __version__
from gkdplan.cli import main
from gkdplan.codes import CODES
from gkdplan.diagnostics import UserError, error
from gkdplan.spec.vocabulary import plan_schema

PLAN = """\
name = "good"
[cluster]
devices_per_node = 2
[student]
model = "models/tiny"
dtype = "fp32"
[teacher]
model = "models/tiny"
[data]
train = ["data/rows.jsonl"]
max_length = 16
[generation]
max_completion_length = 16
[run]
steps = 2
"""

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_world(tmp_path_factory.mktemp("world"))
    (root / "plan.toml").write_text(PLAN)
    return root


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    monkeypatch.setenv("COLUMNS", "80")
    return world


def test_without_a_path_the_plan_of_the_working_directory_is_checked(
    here: Path, capsys: Capture
) -> None:
    assert main.run(["check"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("good: fits, peak ")
    assert err == ""


def test_check_as_json_is_one_document(here: Path, capsys: Capture) -> None:
    assert main.run(["check", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert 0 < answer["summary"]["peak_bytes"] < answer["summary"]["budget_bytes"]
    assert answer["summary"]["verdict"] == "fits"


def test_rows_of_a_plan_with_errors_are_not_read_and_that_is_said(
    here: Path, capsys: Capture
) -> None:
    (here / "bad.toml").write_text(PLAN.replace("steps = 2", "steps = 0"))
    assert main.run(["check", "--data", "bad.toml"]) == 1
    assert "the rows were not read as tokens: the plan has errors" in capsys.readouterr().err


def test_the_json_of_a_bad_plan_has_the_places(here: Path, capsys: Capture) -> None:
    (here / "bad.toml").write_text(PLAN.replace("steps = 2", 'steps = "2"'))
    assert main.run(["check", "bad.toml", "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert finding["code"] == "GK003"
    assert finding["span"] == {"file": "bad.toml", "line": 15, "column": 9, "length": 3}


@pytest.mark.parametrize(
    ("path", "message", "help"),
    [
        ("no.toml", "`no.toml` cannot be read: no such file or directory", "`plan.toml`"),
        (".", "`.` cannot be read: is a directory", "`./plan.toml`"),
        ("no/where.toml", "`no/where.toml` cannot be read: no such file or directory", None),
        ("nul\0.toml", "'nul\\x00.toml' is not a file name", None),
    ],
)
def test_a_plan_that_cannot_be_read_is_a_finding(
    here: Path, capsys: Capture, path: str, message: str, help: str | None
) -> None:
    assert main.run(["check", path]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"error[GK005]: {message}\n")
    assert ("plans nearby" in out) == (help is not None)
    assert help is None or help in out


def test_a_file_that_is_far_too_large_is_not_read_whole(here: Path, capsys: Capture) -> None:
    with open("weights.toml", "wb") as file:
        file.truncate(2**40)
    assert main.run(["check", "weights.toml"]) == 1
    assert "`weights.toml` is larger than any plan" in capsys.readouterr().out
    (here / "weights.toml").unlink()


def test_an_empty_directory_says_how_to_name_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run(["check"]) == 1
    assert "= help: name a plan: `gkdplan check PLAN`" in capsys.readouterr().out


def test_alone_it_shows_three_commands_to_type(capsys: Capture) -> None:
    assert main.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    typed = [line for line in lines if line.startswith("  gkdplan")]
    assert [line.split()[1] for line in typed] == ["check", "plan", "run"]
    assert all(len(line) <= 80 for line in lines)


def test_the_version_is_printed(capsys: Capture) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"gkdplan {__version__}\n"


def test_help_lists_every_command(capsys: Capture) -> None:
    assert main.run(["--help"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.partition("Commands:")[2].splitlines() if line.strip()]
    assert {name for name, *_ in lines} == set(main.COMMANDS)
    assert all(summary[-1].endswith(".") for _, *summary in lines)
    assert "..." not in out.partition("Commands:")[2]  # every summary fits into 80 columns


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_argument_and_option_is_described(name: str, capsys: Capture) -> None:
    assert main.run([name, "--help"]) == 0
    _, *blocks = re.split(r"(?:Arguments|Options):\n", capsys.readouterr().out)
    entries = re.split(r"\n(?=  \S)", "\n".join(blocks).strip("\n"))
    assert all(re.search(r"\S\s{2,}[A-Z]", entry) for entry in entries)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_takes_json(name: str, capsys: Capture) -> None:
    assert main.run([name, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chek"], "Did you mean 'check'"),
        (["check", "a", "b"], "unexpected extra argument"),
        (["check", "--jsn"], "--jsn"),
        (["explain", "GK20"], "GK201"),
        (["explain", "GK999"], "there is no code GK999"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], words: str, capsys: Capture) -> None:
    assert main.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert main.run([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    (finding,) = json.loads(out)["diagnostics"]
    assert (finding["code"], err) == ("GK500", "")
    assert words.lower() in finding["message"].lower()
    assert finding["help"][0].startswith("Usage: gkdplan")


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_explained(code: str, capsys: Capture) -> None:
    assert main.run(["explain", code.lower()]) == 0
    out = " ".join(capsys.readouterr().out.split())
    row = CODES[code]
    assert all(words in out for words in (code, row.title, row.why, row.mend))


def test_a_code_is_explained_with_an_example_as_it_is_printed(capsys: Capture) -> None:
    assert main.run(["explain", "GK002"]) == 0
    assert "\n\nerror[GK002]: unknown key" in capsys.readouterr().out


def test_all_codes_are_listed(capsys: Capture) -> None:
    assert main.run(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("GK")] == list(CODES)


def test_codes_are_explained_as_json(capsys: Capture) -> None:
    assert main.run(["explain", "--json"]) == 0
    assert [row["code"] for row in json.loads(capsys.readouterr().out)["codes"]] == list(CODES)
    assert main.run(["explain", "GK001", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    keys = {"schema_version", "code", "title", "why", "mend", "source", "example"}
    assert answer.keys() == keys
    assert answer["source"] is None
    assert main.run(["explain", "GK203", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"].startswith("megatron-core 0.16.1, ")


def test_the_schema_is_printed(capsys: Capture) -> None:
    assert main.run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == plan_schema()


def failing(monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    def compile_file(path: str | None) -> None:
        raise failure

    monkeypatch.setattr("gkdplan.cli.check.compile_file", compile_file)


def test_a_bug_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    bug = ZeroDivisionError("division by zero")
    bug.add_note("the plan's fingerprint is abc")
    failing(monkeypatch, bug)
    monkeypatch.delenv("GKDPLAN_TRACEBACK", raising=False)
    assert main.run(["check"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "internal error: ZeroDivisionError: division by zero",
        "the plan's fingerprint is abc",
        f"this is a bug in gkdplan {__version__}, not in your plan",
        "GKDPLAN_TRACEBACK=1 shows where it happened",
    ]


def test_a_bug_s_traceback_is_shown_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    failing(monkeypatch, ZeroDivisionError())
    monkeypatch.setenv("GKDPLAN_TRACEBACK", "1")
    assert main.run(["check"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert main.run(["check"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_that_an_import_would_swallow_ends_it_in_one_line() -> None:
    program = """
import os, signal
from gkdplan.cli import runtime

def import_module(name):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("swallowed")

runtime.import_module = import_module
runtime.runtime("launch")
"""
    ending = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ending.returncode, ending.stdout, ending.stderr) == (130, "", "interrupted\n")


def test_a_refusal_exits_with_1_and_shows_its_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    failing(monkeypatch, UserError(error("GK501", "the lock is stale")))
    assert main.run(["check"]) == 1
    assert capsys.readouterr().err == "error[GK501]: the lock is stale\n\n1 error\n"
    assert main.run(["check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["diagnostics"][0]["code"] == "GK501"


@pytest.mark.parametrize(("arguments", "code"), [(["check"], 0), (["check", "bad.toml"], 1)])
def test_checking_imports_nothing_heavy(here: Path, arguments: list[str], code: int) -> None:
    (here / "bad.toml").write_text(PLAN.replace("steps = 2", 'steps = "2"'))
    program = (
        "import sys\nfrom gkdplan.cli.main import run\n"
        f"code = run({arguments})\n"
        "print([m for m in sys.modules if '.' not in m], file=sys.stderr)\nsys.exit(code)"
    )
    ending = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ending.returncode == code
    imported = set(eval(ending.stderr))
    assert imported & {"typer", "pydantic", "gkdplan"} == {"typer", "pydantic", "gkdplan"}
    heavy = {"torch", "numpy", "transformers", "tokenizers", "safetensors", "rich", "megatron"}
    assert imported & heavy == set()


def test_a_command_that_loads_the_runtime_ends_without_a_word_of_its_libraries() -> None:
    """nanobind lists what it thinks was leaked, as thousands of lines."""
    code = "import sys, triton, gkdplan.cli.main as cli; sys.argv[1:] = ['--version']; cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_console_script_prints_to_a_narrow_encoding(here: Path) -> None:
    (here / "wide.toml").write_text('name = "蒸馏"\n', encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    program = "from gkdplan.cli.main import main; main()"
    command = [sys.executable, "-c", program, "check", "wide.toml"]
    ending = subprocess.run(command, capture_output=True, env=environment)
    assert ending.returncode == 1
    assert b"\\u84b8" in ending.stdout


mutations = st.lists(
    st.tuples(
        st.integers(0, len(PLAN)),
        st.integers(0, 8),
        st.sampled_from([*PLAN.split(), *PLAN.splitlines(), "0", "9", "-", '"', "[", "\n", "inf"]),
    ),
    min_size=1,
    max_size=3,
)


@given(mutations)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_makes_check_fail_in_itself(
    here: Path, capsys: Capture, mutations: list[tuple[int, int, str]]
) -> None:
    text = PLAN
    for start, length, insertion in mutations:
        text = text[:start] + insertion + text[start + length :]
    (here / "mutant.toml").write_text(text)
    status = main.run(["check", "mutant.toml"])
    out, err = capsys.readouterr()
    assert status == (1 if "error[GK" in out else 0), err
    assert err == ""
