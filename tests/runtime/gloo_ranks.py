"""Run a function on several processes that form a gloo group over the loopback."""

import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def run_on_ranks(
    function: Callable[..., None], num_ranks: int, *args: Any, timeout_s: float = 240
) -> None:
    """Call `function(*args)` on each rank; a child's failure raises here with its traceback.

    `function` must be importable: a plain function of a test module.
    """
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "rendezvous"
        context = mp.start_processes(
            _child, (num_ranks, str(store), function, args), num_ranks, join=False
        )
        deadline = time.monotonic() + timeout_s
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(
                    f"{function.__name__} ran past {timeout_s} s on {num_ranks} ranks"
                )


def _child(
    rank: int, num_ranks: int, store: str, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=120),
    )
    function(*args)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
