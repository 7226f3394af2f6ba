"""Scripts that start a plan's ranks: what they say, and what they do with what they are told.

`srun` and `scontrol` are mocks here, which only write down how they were called: there is no Slurm.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gkdplan.cli.main import run

SRUN = '#!/bin/sh\nenv | grep ^MASTER_ >> calls\necho "srun $*" >> calls\nexit {code}\n'
SCONTROL = (
    '#!/bin/sh\necho "scontrol $*" >> calls\n[ "$1" = show ] && printf "n1\\nn2\\n" || true\n'
)


def printed(scheduler: str, capsys, *options: str) -> str:
    plan = Path("plan.toml")
    text = plan.read_text()
    if "num_nodes" not in text:
        text = text.replace("[cluster]\n", "[cluster]\nnum_nodes = 3\nmaster_port = 29777\n")
        plan.write_text(text.replace("global = 4", "global = 6"))
    assert run(["launch", scheduler, "plan.toml", *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("scheduler", ["slurm", "torchrun"])
def test_a_script_is_one_that_bash_reads(scheduler, workplace, capsys):
    script = printed(scheduler, capsys)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-"], input=script, text=True, check=True)


def test_a_batch_script_asks_for_the_plans_nodes_and_warns_before_the_end(workplace, capsys):
    lines = printed("slurm", capsys).splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"nodes=3", "ntasks-per-node=2", "signal=USR1@300", "requeue"} <= asked
    assert not any("gpu" in one for one in asked), "the plan has no GPUs"


@pytest.mark.parametrize(
    ("code", "count", "requeued"),
    [(0, "0", False), (4, "0", True), (4, "3", False), (1, "0", False)],
)
def test_a_run_that_can_go_on_is_queued_again(code, count, requeued, workplace, capsys, tmp_path):
    calls = _call(printed("slurm", capsys), SRUN.format(code=code), code, count)
    assert ("scontrol requeue 17" in calls) is requeued
    assert {"MASTER_ADDR=n1", "MASTER_PORT=29777"} <= set(calls)
    (srun,) = (shlex.split(call) for call in calls if call.startswith("srun"))
    assert srun[-3:] == ["gkdplan", "run", "plan.toml"]
    assert {"--nodes=3", "--ntasks=6", "--ntasks-per-node=2", "--distribution=block"} <= set(srun)
    assert {"--kill-on-bad-exit=0", "--wait=60"} <= set(srun)


def _call(script: str, srun: str, code: int, count: str) -> list[str]:
    tools = Path("tools")
    tools.mkdir()
    for name, text in {"srun": srun, "scontrol": SCONTROL}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = {"PATH": f"{tools.resolve()}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    job = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_RESTART_COUNT": count}
    done = subprocess.run(["bash"], input=script, text=True, env=os.environ | path | job)
    assert done.returncode == code
    return Path("calls").read_text().splitlines()


def test_a_node_that_is_not_told_its_number_does_not_start(workplace, capsys):
    script = printed("torchrun", capsys)
    environment = {"PATH": os.environ["PATH"], "MASTER_ADDR": "head"}
    done = subprocess.run(
        ["bash"], input=script, text=True, env=environment, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert "NODE_RANK: the number of this node: 0 to 2" in done.stderr


def test_a_manifest_is_a_service_and_an_indexed_job_of_a_pod_a_node(workplace, capsys):
    text = printed("k8s", capsys, "--image", "registry/gkdplan:1", "--claim", "files")
    service, job = yaml.safe_load_all(text)
    assert (service["kind"], service["spec"]["clusterIP"]) == ("Service", "None")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert pod["subdomain"] == service["metadata"]["name"] == job["metadata"]["name"] == "little"
    assert service["spec"]["selector"] == {"job-name": "little"}
    (container,) = pod["containers"]
    assert container["image"] == "registry/gkdplan:1"
    assert {"name": "MASTER_ADDR", "value": "little-0.little"} in container["env"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "files"
    command = shlex.split(container["command"][2])
    assert {"--nnodes=3", "--nproc-per-node=2", "--node-rank=$JOB_COMPLETION_INDEX"} <= set(command)
    assert command[-3:] == ["gkdplan", "run", "plan.toml"]
    assert "resources" not in container, "the plan has no GPUs"


def test_gpus_are_asked_for_where_the_plan_has_them(workplace, capsys):
    plan = Path("plan.toml")
    gpus = plan.read_text().replace("[cluster]\n", '[cluster]\ndevice = "h100-80gb"\n')
    plan.write_text(re.sub("memory_limit = .*\n", "", gpus).replace("fp32", "bf16"))
    assert "#SBATCH --gpus-per-node=2\n" in printed("slurm", capsys)
    _, job = yaml.safe_load_all(printed("k8s", capsys))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
