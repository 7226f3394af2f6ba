"""What `gkdplan launch torchrun` prints is executed: torchrun starts the ranks, for real."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_plans import make_home, plan_text
from two_hosts import two_hosts, why_not

from gkdplan.cli.main import run
from gkdplan.runtime.saved.run_directory import RunDirectory, read_metrics

pytestmark = pytest.mark.timeout(600)


def script_of(place: Path, capsys, monkeypatch, **changes: object) -> str:
    text = plan_text(make_home(place / "home"), "run", held_out="[]", save_interval=3, **changes)
    (place / "plan.toml").write_text(text)
    monkeypatch.chdir(place)
    capsys.readouterr()
    assert run(["launch", "torchrun", "plan.toml"]) == 0
    return capsys.readouterr().out


def start(script: str, words: list[str], **variables: str) -> subprocess.Popen:
    tools = str(Path(sys.executable).parent)
    environment = {"OMP_NUM_THREADS": "1", "PATH": f"{tools}:{os.environ['PATH']}", **variables}
    return subprocess.Popen(
        [*words, "bash", "-c", script], env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_one_node_runs_the_plan_to_its_end(tmp_path, capsys, monkeypatch):
    cluster = "master_port = 29731\njoin_timeout_s = 120"
    script = script_of(tmp_path, capsys, monkeypatch, devices=2, steps=2, cluster=cluster)
    started = start(script, [], MASTER_ADDR="127.0.0.1", NODE_RANK="0")
    out, err = started.communicate(timeout=240)
    assert started.returncode == 0, err
    assert out.count("metrics   run/metrics.jsonl") == 1, "one rank says how the run ended"
    assert RunDirectory(tmp_path / "run").saved_steps() == [2]


@pytest.mark.grid
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
def test_two_nodes_start_anew_after_a_rank_was_killed(rendezvous, tmp_path, capsys, monkeypatch):
    cluster = "num_nodes = 2\nmaster_port = 29732\njoin_timeout_s = 180\ncollective_timeout_s = 20"
    script = script_of(tmp_path, capsys, monkeypatch, devices=2, steps=60, cluster=cluster)
    directory = RunDirectory(tmp_path / "run")
    with two_hosts() as hosts:
        variables = {"MASTER_ADDR": hosts[0].address, "RENDEZVOUS": rendezvous}
        nodes = [
            start(
                script,
                host.command([]),
                NODE_RANK=str(number),
                LOCAL_ADDR=host.address,
                **variables,
            )
            for number, host in enumerate(hosts)
        ]
        try:
            deadline = time.monotonic() + 240
            while not directory.saved_steps():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            psutil.Process(ranks_of(nodes[1])[0]).kill()
            ends = [node.communicate(timeout=300) for node in nodes]
        finally:
            for process in [p for node in nodes for p in family_of(node)]:
                process.kill()
    assert [node.returncode for node in nodes] == [0, 0], ends
    steps = [line["step"] for line in read_metrics(directory.metrics) if "loss" in line]
    assert steps == list(range(1, 61))
    logs = (tmp_path / "run/logs/node_1.log").read_text()
    began = [line for line in logs.splitlines() if "goes on after step" in line]
    assert len(began) == 4, "two ranks, twice"
    assert not began[-1].endswith("goes on after step 0")


def ranks_of(node: subprocess.Popen) -> list[int]:
    return [process.pid for process in family_of(node) if "RANK" in process.environ()]


def family_of(node: subprocess.Popen) -> list[psutil.Process]:
    """A node's torchrun and all that it started, as far as they are there."""
    try:
        process = psutil.Process(node.pid)
    except psutil.NoSuchProcess:
        return []
    return [process, *process.children(recursive=True)]
