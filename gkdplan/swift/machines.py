"""GPUs and nodes: of the environment, or of a Ray file's groups."""

from collections.abc import Iterator

from gkdplan.swift.given import Given
from gkdplan.swift.said import Said

LARGEST_NODE = 8


def machines(given: Given, device: str) -> Iterator[Said]:
    """The table `[cluster]`."""
    yield Said("cluster.device", device, "what --device says: no flag does")
    num_train = given.command.groups.get("train")
    if num_train:
        num_nodes = -(-num_train // LARGEST_NODE)
        yield Said("cluster.num_nodes", num_nodes, f"train: {num_train} GPUs")
        yield Said("cluster.devices_per_node", num_train // num_nodes, f"train: {num_train} GPUs")
        return
    environment = given.command.environment
    nodes = environment.get("NNODES", "")
    if nodes.isdecimal():
        yield Said("cluster.num_nodes", int(nodes), f"NNODES={nodes}")
    processes = environment.get("NPROC_PER_NODE", "")
    visible = [part for part in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    if processes.isdecimal():
        yield Said("cluster.devices_per_node", int(processes), f"NPROC_PER_NODE={processes}")
    elif visible:
        source = f"CUDA_VISIBLE_DEVICES={','.join(visible)}"
        yield Said("cluster.devices_per_node", len(visible), source)
    else:
        yield Said("cluster.devices_per_node", 1, "no NPROC_PER_NODE is set")
