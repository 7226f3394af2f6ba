"""The shared memory through which vLLM's ranks on a CPU add up their parts of a matrix product."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

_PLACE = Path("/dev/shm")


@contextmanager
def own_shared_memory() -> Iterator[None]:
    """An engine that starts inside gets memory of a name of its own, which is gone once its ranks
    have joined: what they have mapped stays.

    In ranks that another launcher has started, vLLM 0.32 takes one name for all runs on a machine
    (vllm/distributed/device_communicators/cpu_communicator.py, make_group_name), where a second
    run, or one after a rank was killed, would not start. Collective over the default group.
    """
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed

    token = [secrets.token_hex(8)]
    dist.broadcast_object_list(token, src=0)
    prefix, name_of_vllm = f"gkdplan-{token[0]}", _CPUSHMDistributed.make_group_name
    _CPUSHMDistributed.make_group_name = staticmethod(
        lambda communicator: f"/{prefix}{name_of_vllm(communicator).lstrip('/')}"
    )
    try:
        yield
    finally:
        _CPUSHMDistributed.make_group_name = staticmethod(name_of_vllm)
        for mapped in _PLACE.glob(f"{prefix}*"):
            mapped.unlink(missing_ok=True)
