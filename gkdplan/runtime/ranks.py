"""One process a rank, through torch's own launcher."""

import contextlib
import logging
import multiprocessing.util
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gkdplan.runtime.hosts.hung_ranks import killed_soon
from gkdplan.runtime.interrupts import own_signal_handlers, signals_of_torch
from gkdplan.runtime.stopping import StopRequest


def start_ranks(
    main: Callable[..., Any],
    num_ranks: int,
    run_id: str,
    *arguments: object,
    stop: StopRequest | None = None,
) -> dict[int, Any]:
    """Run `main(*arguments)` on each rank of this node; what the ranks return, by rank.

    Where `main` heeds a `stop`, a scheduler's signal makes that request and ends nothing.
    Raises torch's ChildFailedError where a rank failed, and Interrupted or SignalException where
    this process was told to stop; no process is left behind.
    """
    set_environment(num_ranks)
    with _torchs_own_files_go(), own_signal_handlers(stop), killed_soon():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            run_id=run_id,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            start_method="spawn",
            signals_to_handle=signals_of_torch(stop),
        )
        results: dict[int, Any] = elastic_launch(config, main)(*arguments)
    return results


@contextlib.contextmanager
def _torchs_own_files_go() -> Iterator[None]:
    """torch's launcher leaves a directory of empty logs, and a file of each rank that was killed,
    where this process has its temporary files: meanwhile that is one that goes. multiprocessing
    keeps its own directory to the end of the process."""
    multiprocessing.util.get_temp_dir()
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as scratch:
        tempfile.tempdir = scratch
        try:
            yield
        finally:
            tempfile.tempdir = before


def set_environment(num_ranks: int) -> None:
    """What the ranks inherit, where the user has not set it: threads, no libraries' chatter, and no
    record of the last 2,000 collectives, which nothing reads and which grows for 200 steps."""
    threads = max(1, (os.cpu_count() or 1) // num_ranks)
    for name, value in {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "TORCH_FR_BUFFER_SIZE": "0",
        "PYTHONWARNINGS": "ignore::UserWarning,ignore::FutureWarning,ignore::DeprecationWarning",
    }.items():
        os.environ.setdefault(name, value)
    for name in logging.root.manager.loggerDict:
        if name.startswith(("torch.distributed.elastic", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
