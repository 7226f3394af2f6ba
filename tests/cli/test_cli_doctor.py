"""`gkdplan doctor`: what is installed and there, and what a plan would miss."""

import json
import subprocess
import sys
from importlib import metadata

import pytest

from gkdplan.cli.main import run
from gkdplan.facts import machine
from gkdplan.runtime.machine import host_memory


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def test_every_package_stands_with_its_version(capsys):
    assert run(["doctor"]) == 0
    lines = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    for name in ("torch", "megatron-core", "transformers", "safetensors", "pydantic"):
        assert lines[name] == metadata.version(name)
    assert lines["gloo"] == "there"


def test_a_package_that_several_extras_ask_for_stands_once():
    names = [package.name for package in machine.look_at_machine("runs").packages]
    assert len(names) == len(set(names))


def test_the_json_has_the_same_facts(capsys):
    assert run(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    torch = next(each for each in answer["machine"]["packages"] if each["name"] == "torch")
    assert torch == {
        "name": "torch",
        "extra": "run",
        "installed": metadata.version("torch"),
        "wanted": ">=2.10",
    }
    assert answer["devices"]["gloo"] is True
    assert [disk["use"] for disk in answer["machine"]["disks"]] == [
        "runs",
        "models",
        "shared memory",
    ]
    assert all(disk["free_bytes"] > 0 for disk in answer["machine"]["disks"])


def test_a_version_that_was_not_tried_is_a_warning(monkeypatch, capsys):
    version = metadata.version
    other = {"megatron-core": "0.17.0"}
    monkeypatch.setattr(machine.metadata, "version", lambda name: other.get(name) or version(name))
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "warning[GK528]: `megatron-core` is 0.17.0" in out
    assert "pip install 'megatron-core<0.17,>=0.16.1'" in " ".join(out.split())


def test_what_is_not_installed_has_the_command_that_installs_it(monkeypatch, capsys):
    """As after `pip install gkdplan` alone; a mock of its packages."""
    version = metadata.version
    base = ("pydantic", "typer", "rich", "tomlkit", "pyyaml", "packaging")

    def only_base(name: str) -> str:
        if name in base:
            return version(name)
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine.metadata, "version", only_base)
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.count("`pip install 'gkdplan[run]'`") >= 5
    assert "`pip install 'gkdplan[vllm]'`" in out
    assert "torch is not installed" in out


def test_without_a_plan_torch_is_imported_for_its_devices_and_megatron_is_not(tmp_path):
    code = (
        "import sys; from gkdplan.cli.main import run; run(['doctor']);"
        "assert 'torch' in sys.modules and 'megatron.core' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)


def test_a_plan_for_gpus_misses_them_here(workplace, capsys, monkeypatch):
    """Whatever else is running on this machine."""
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 64 * 2**30)
    assert run(["doctor", "plan.toml"]) == 0
    assert capsys.readouterr().out.endswith("plan.toml misses nothing here\n")
    text = (workplace.path / "plan.toml").read_text()
    on_gpus = text.replace("[cluster]", '[cluster]\ndevice = "h100-80gb"')
    (workplace.path / "plan.toml").write_text(on_gpus)
    assert run(["doctor", "plan.toml"]) == 1
    assert "error[GK515]" in capsys.readouterr().out
