"""What `gkdplan serve` starts, without starting it."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from gkdplan.cli.main import run
from gkdplan.runplan.sampling import ServerLimits
from gkdplan.runtime import server_keys, serving
from gkdplan.vocab import Role

URL = "http://127.0.0.1:8000"
LIMITS = ServerLimits(144, 8, 1, 2, 0.9, None)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    return tmp_path / "state"


def options(*arguments) -> dict[str, str]:
    """Each option with what follows it."""
    words = [*serving.command(*arguments, is_guarded=True)][1:]
    return {
        word: after for word, after in zip(words, [*words[1:], ""], strict=True) if "--" in word
    }


def test_a_key_is_made_once_for_an_address_and_only_its_user_reads_it(state):
    key = server_keys.keep_key(URL)
    assert len(key) > 40
    assert server_keys.keep_key(URL) == key == server_keys.key_of(URL)
    assert server_keys.key_of("http://127.0.0.1:8001") is None
    file = server_keys.key_file(URL)
    assert state in file.parents
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_key_of_the_environment_is_taken_and_kept_nowhere(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "given")
    assert server_keys.keep_key(URL) == "given"
    assert not server_keys.key_file(URL).exists()


def test_the_key_is_in_no_command_line(run_plan):
    assert "secret" in serving.environment(Role.STUDENT, run_plan, "secret").values()
    assert "secret" not in str(
        [*serving.command(run_plan, Role.STUDENT, URL, LIMITS, is_guarded=True)]
    )
    assert "VLLM_API_KEY" not in serving.environment(Role.STUDENT, run_plan, None)


def test_a_students_server_takes_weights_and_a_teachers_does_not(run_plan):
    student = options(run_plan, Role.STUDENT, URL, LIMITS)
    assert json.loads(student["--weight-transfer-config"]) == {"backend": "gloo"}
    assert student["--host"] == "127.0.0.1"
    assert student["--port"] == "8000"
    assert student["--max-model-len"] == "144"
    assert student["--tensor-parallel-size"] == "2"
    assert student["--middleware"] == "gkdplan.runtime.rollout.server_key.KeyOnEveryRoute"
    assert serving.environment(Role.STUDENT, run_plan, None)["VLLM_SERVER_DEV_MODE"] == "1"
    teacher = options(run_plan, Role.TEACHER, URL, replace(LIMITS, max_logprobs=64))
    assert teacher["--max-logprobs"] == "64"
    assert teacher["--middleware"] == student["--middleware"]
    assert "--weight-transfer-config" not in teacher
    assert "VLLM_SERVER_DEV_MODE" not in serving.environment(Role.TEACHER, run_plan, None)


def test_gpus_have_vllms_own_way_of_weights(run_plan):
    on_gpus = replace(run_plan, layout=replace(run_plan.layout, backend="nccl"))
    found = options(on_gpus, Role.STUDENT, URL, LIMITS)
    assert json.loads(found["--weight-transfer-config"]) == {"backend": "nccl"}
    assert "--enforce-eager" not in found
    assert found["--gpu-memory-utilization"] == "0.9"


SERVED = '[generation]\nengine = "vllm"\nmode = "server"\nmax_completion_length = 16\nserver_url = '


@pytest.mark.parametrize(
    ("urls", "arguments", "said"),
    [
        ("", [], "the plan has no server for its student"),
        ('"http://a:1"', ["--role", "teacher"], "the plan has no server for its teacher"),
        ('["http://a:1", "http://b:2"]', [], "the plan has 2 servers for its student"),
        ('["http://a:1", "http://b:2"]', ["--url", "http://c:3"], "`http://c:3` is no server"),
    ],
)
def test_nothing_is_guessed_of_what_to_serve(workplace, capsys, urls, arguments, said):
    if urls:
        plan = Path("plan.toml")
        lines = plan.read_text().split("[generation]\nmax_completion_length = 16\n")
        plan.write_text(f"{SERVED}{urls}\n".join(lines))
    assert run(["serve", *arguments]) == 1
    err = capsys.readouterr().err
    assert "error[GK547]" in err
    assert said in " ".join(err.split())
    assert os.environ.get("VLLM_API_KEY") is None


def test_json_says_what_would_be_started(workplace, capsys):
    plan = Path("plan.toml")
    lines = plan.read_text().split("[generation]\nmax_completion_length = 16\n")
    plan.write_text(f'{SERVED}"http://127.0.0.1:8000"\n'.join(lines))
    assert run(["serve", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"]
    assert (answer["role"], answer["url"]) == ("student", "http://127.0.0.1:8000")
    assert "--enable-scale-out" in answer["command"]
    assert server_keys.key_of("http://127.0.0.1:8000") is None
