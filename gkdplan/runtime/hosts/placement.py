"""Which rank of which world this process is, as torchrun or Slurm says in its environment.

Without torch: a wrong environment is found before anything is imported.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.layout import Layout

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")


@dataclass(frozen=True, slots=True)
class Placement:
    """`rank` of `world_size`, `local_rank` on its host; ranks meet at `master_host`:`master_port`.

    `num_restarts` is how often torchrun has started the ranks anew. Where its agents have a store
    that the ranks are to meet in, `has_store`; else rank 0 opens one there.
    """

    rank: int
    local_rank: int
    world_size: int
    master_host: str
    master_port: int
    num_restarts: int = 0
    has_store: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What torch and vLLM read of it, by torchrun's names."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": self.master_host,
            "MASTER_PORT": str(self.master_port),
        }


def is_started_as_a_rank(environment: Mapping[str, str]) -> bool:
    """Whether torchrun started this process, or an srun of several tasks."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return True
    return "SLURM_PROCID" in environment and environment.get("SLURM_STEP_NUM_TASKS", "1") != "1"


def speaks(environment: Mapping[str, str], name: str = "RANK") -> bool:
    """Whether this process has the number 0 ("RANK" of all, "LOCAL_RANK" of its host), or is no
    rank: one of many says what all would say."""
    if not is_started_as_a_rank(environment):
        return True
    of_slurm = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID"}[name]
    return environment.get(name, environment.get(of_slurm, "0")) == "0"


def placement_of(environment: Mapping[str, str], layout: Layout) -> Placement | None:
    """This rank's placement; None where this process starts the ranks of its host itself.

    Raises UserError where the environment lacks something (GK581), or is of another world than the
    layout's (GK580).
    """
    if not is_started_as_a_rank(environment):
        if layout.num_nodes > 1:
            raise UserError(_nothing_says_which(layout))
        return None
    found = tuple(_lacking(environment))
    if found:
        raise UserError(*found)
    is_torchrun = "RANK" in environment
    names = _TORCHRUN if is_torchrun else _SLURM
    rank, local_rank, world_size = (int(environment[name]) for name in names[:3])
    placement = Placement(
        rank,
        local_rank,
        world_size,
        environment["MASTER_ADDR"],
        int(environment.get("MASTER_PORT", layout.rendezvous.master_port)),
        int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")),
        environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )
    found = tuple(_of_another_world(placement, layout, is_torchrun))
    if found:
        raise UserError(*found)
    return placement


def _lacking(environment: Mapping[str, str]) -> Iterator[Diagnostic]:
    is_torchrun = "RANK" in environment
    names = (*(_TORCHRUN[:3] if is_torchrun else _SLURM),)
    for name in names:
        if not environment.get(name, "").isdecimal():
            yield _wrong(name, environment, "torchrun" if is_torchrun else "srun")
    if not environment.get("MASTER_ADDR"):
        yield error(
            "GK581",
            "`MASTER_ADDR` is not set: the ranks do not know where to meet",
            help=(
                "set it to the first host, for all tasks: "
                '`export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)`'
                if not is_torchrun
                else "start the ranks with `torchrun --nnodes N --master-addr HOST ...`, "
                "as `gkdplan launch torchrun PLAN` prints it",
            ),
        )
    port = environment.get("MASTER_PORT", "1")
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        yield _wrong("MASTER_PORT", environment, "a port: 1 to 65535")


def _wrong(name: str, environment: Mapping[str, str], wanted: str) -> Diagnostic:
    value = environment.get(name)
    return error(
        "GK581",
        f"`{name}` is not set" if value is None else f"`{name}` is {value!r}",
        notes=(f"wanted is what {wanted} sets" if "port" not in wanted else f"wanted is {wanted}",),
        help=("let torchrun or srun start the ranks: `gkdplan launch torchrun|slurm PLAN`",),
    )


def _nothing_says_which(layout: Layout) -> Diagnostic:
    return error(
        "GK581",
        f"the plan has {layout.num_nodes} nodes, and nothing says which of them this one is",
        "cluster.num_nodes",
        label="neither torchrun nor srun started this process",
        help=(
            "`gkdplan launch torchrun|slurm|k8s PLAN` prints what starts it on each node",
            "or set `cluster.num_nodes` to 1",
        ),
    )


def _of_another_world(
    placement: Placement, layout: Layout, is_torchrun: bool
) -> Iterator[Diagnostic]:
    nodes, per_node = layout.num_nodes, layout.devices_per_node
    if is_torchrun:
        start = f"`torchrun --nnodes {nodes} --nproc-per-node {per_node} ...`"
    else:
        start = f"`srun --nodes {nodes} --ntasks-per-node {per_node} --distribution block ...`"
    wanted = f"{nodes} {'node' if nodes == 1 else 'nodes'} of {per_node}"
    if placement.world_size != layout.world_size:
        yield error(
            "GK580",
            f"{placement.world_size} ranks were started, and the plan has {layout.world_size}",
            "cluster.num_nodes",
            label=f"{wanted} {'rank' if per_node == 1 else 'ranks'} each",
            help=(f"start them with {start}", "or plan with the nodes and devices that there are"),
        )
    elif placement.rank % per_node != placement.local_rank:
        yield error(
            "GK580",
            f"rank {placement.rank} is number {placement.local_rank} of its host, "
            f"where the plan has number {placement.rank % per_node}",
            "cluster.devices_per_node",
            label=f"ranks are numbered host by host, {per_node} on each",
            help=(f"start them with {start}",),
        )
