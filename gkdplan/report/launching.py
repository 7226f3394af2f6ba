"""What starts a run's ranks on its nodes: a script for Slurm or torchrun, a manifest for k8s.

Each is written from the run plan and the path of its plan alone, to be read and changed.
"""

import json
from shlex import quote
from string import Template

from gkdplan.runplan.model import RunPlan

WARNING_S = 300
"""Before its time is up, a run is asked to save."""
SAVING_S = 120
"""What a run that is asked to stop may take for its step and the checkpoint."""
RESTARTS = 3


def slurm(run_plan: RunPlan, plan: str) -> str:
    """A batch script: one task a rank. Exit code 4 puts the job back into the queue."""
    gpus = "#SBATCH --gpus-per-node=$per_node\n" if run_plan.layout.backend == "nccl" else ""
    bind = " --gpu-bind=none" if gpus else ""
    return _filled(
        f"""\
#!/bin/bash
# $name: $nodes x $per_node ranks. Add --time, --partition and --account as your cluster has them.
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$per_node
{gpus}#SBATCH --signal=USR1@$warning_s
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

MASTER_ADDR=$$(scontrol show hostnames "$$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$port

# A rank that fails tells the others why; what still hangs a minute later is killed.
status=0
srun --nodes=$nodes --ntasks=$world --ntasks-per-node=$per_node --distribution=block{bind} \\
  --kill-on-bad-exit=0 --wait=60 gkdplan run $plan || status=$$?

# 4: stopped, and the same command goes on after the newest checkpoint.
if [ "$$status" -eq 4 ] && [ "$${{SLURM_RESTART_COUNT:-0}}" -lt $restarts ]; then
  scontrol requeue "$$SLURM_JOB_ID"
fi
exit "$$status"
""",
        run_plan,
        plan,
    )


def torchrun(run_plan: RunPlan, plan: str) -> str:
    """A script that is started on every node; ranks that end early are started anew."""
    return _filled(
        """\
#!/bin/bash
# $name: $nodes x $per_node ranks. Start this on every node, with
#   MASTER_ADDR  an address of the first node that the others reach, the same on all
#   NODE_RANK    the number of the node, from 0, the first one, to $last
# RENDEZVOUS=c10d lets nodes come in any order, without NODE_RANK where MASTER_ADDR is the first's
# own name; where the others do not find a node by its name, LOCAL_ADDR is its own address.
set -euo pipefail
: "$${MASTER_ADDR:?an address of the first node}"

if [ "$${RENDEZVOUS:-static}" = c10d ]; then
  meet=(--rdzv-backend=c10d --rdzv-endpoint="$$MASTER_ADDR:$port" --rdzv-id=$id
    $${NODE_RANK:+"--rdzv-conf=is_host=$$((NODE_RANK == 0))"})
else
  : "$${NODE_RANK:?the number of this node: 0 to $last}"
  meet=(--node-rank="$$NODE_RANK" --master-addr="$$MASTER_ADDR" --master-port=$port)
fi

# A stopped run saves before it ends.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=$saving_s
exec torchrun --nnodes=$nodes --nproc-per-node=$per_node "$${meet[@]}" \\
  $${LOCAL_ADDR:+"--local-addr=$$LOCAL_ADDR"} --max-restarts=$restarts \\
  --no-python gkdplan run $plan
""",
        run_plan,
        plan,
    )


def k8s(run_plan: RunPlan, plan: str, image: str, claim: str) -> str:
    """A headless Service and an indexed Job, one pod a node: YAML of two documents. The volume of
    `claim` is mounted at /work, the working directory."""
    layout = run_plan.layout
    has_gpus = layout.backend == "nccl"
    name = _label(run_plan.name)
    script = _filled(
        "exec torchrun --nnodes=$nodes --nproc-per-node=$per_node "
        '--node-rank="$$JOB_COMPLETION_INDEX" --master-addr="$$MASTER_ADDR" '
        "--master-port=$port --max-restarts=$restarts --no-python gkdplan run $plan",
        run_plan,
        plan,
    )
    resources = (
        f"""
          resources:
            limits:
              nvidia.com/gpu: {layout.devices_per_node}"""
        if has_gpus
        else ""
    )
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    job-name: {name}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {layout.num_nodes}
  parallelism: {layout.num_nodes}
  backoffLimit: {RESTARTS * layout.num_nodes}
  template:
    spec:
      subdomain: {name}
      restartPolicy: Never
      terminationGracePeriodSeconds: {SAVING_S + 30}
      containers:
        - name: ranks
          image: {json.dumps(image)}
          workingDir: /work
          command: ["bash", "-c", {json.dumps(script)}]
          env:
            - name: MASTER_ADDR
              value: {name}-0.{name}
            - name: TORCH_ELASTIC_SHUTDOWN_TIMEOUT
              value: "{SAVING_S}"
          ports:
            - containerPort: {layout.rendezvous.master_port}{resources}
          volumeMounts:
            - name: work
              mountPath: /work
            - name: shared-memory
              mountPath: /dev/shm
      volumes:
        - name: work
          persistentVolumeClaim:
            claimName: {json.dumps(claim)}
        - name: shared-memory
          emptyDir:
            medium: Memory
"""


def _filled(template: str, run_plan: RunPlan, plan: str) -> str:
    layout = run_plan.layout
    return Template(template).substitute(
        name=run_plan.name,
        id=f"{run_plan.name}-{run_plan.fingerprint[:8]}",
        nodes=layout.num_nodes,
        per_node=layout.devices_per_node,
        world=layout.world_size,
        last=layout.num_nodes - 1,
        port=layout.rendezvous.master_port,
        plan=quote(plan),
        warning_s=WARNING_S,
        saving_s=SAVING_S,
        restarts=RESTARTS,
    )


def _label(name: str) -> str:
    """A name that Kubernetes takes: RFC 1123, at most 50 characters, as pods get a number."""
    kept = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    return kept[:50].strip("-") or "gkdplan"
