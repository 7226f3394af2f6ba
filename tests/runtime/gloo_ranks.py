"""Run a function on several processes that form a gloo group over the loopback.

The processes are forks of one that has imported torch, megatron and transformers, which takes
seconds, and stay alive for the next call.
"""

import gc
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
import torch.multiprocessing as mp
from megatron.core.distributed import DistributedDataParallel
from torch.distributed.launcher.api import LaunchConfig

from gkdplan.runtime import ranks
from gkdplan.runtime.megatron.mesh import close_mesh

MAX_THREADS = 100
CHILD_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
}
IMPORTED_ONCE = [
    "pytest",
    "hypothesis",
    "gkdplan.runtime.executor",
    "gkdplan.runtime.trace",
    "transformers.models.auto.modeling_auto",
    *(
        f"transformers.models.{family}.modeling_{family}"
        for family in (
            "llama",
            "qwen2",
            "qwen3",
            "qwen3_moe",
            "qwen2_moe",
            "mixtral",
            "olmoe",
            "deepseek_v3",
        )
    ),
]


@contextmanager
def launched_as_forks() -> Iterator[None]:
    """`launch.run` here starts its ranks as forks of that process too."""

    def forking(**config: Any) -> LaunchConfig:
        return LaunchConfig(**config | {"start_method": "forkserver"})

    mp.get_context("forkserver").set_forkserver_preload(IMPORTED_ONCE)
    with patch.dict(os.environ, CHILD_ENVIRONMENT), patch.object(ranks, "LaunchConfig", forking):
        yield


def run_on_ranks(
    function: Callable[..., None],
    num_ranks: int,
    *args: Any,
    timeout_s: float = 240,
    only_once: bool = False,
    python_path: str | None = None,
) -> None:
    """Call `function(*args)` on each rank; a child's failure raises here with its traceback.

    `function` must be importable: a plain function of a test module. The processes are replaced
    after a failure, as the others may wait in a collective, where they have too many threads, and
    where they are of use `only_once`: vLLM keeps the groups of its first world for ever. With a
    `python_path` of their own, which has to be there from the start, they are no forks.
    """
    ranks = Ranks(num_ranks, python_path) if python_path else _WORLDS.pop(num_ranks, None)
    ranks = ranks or Ranks(num_ranks)
    try:
        ranks.run(function, args, timeout_s)
    except BaseException:
        ranks.kill()
        raise
    if only_once or python_path or ranks.num_threads > MAX_THREADS:
        ranks.kill()
    else:
        _WORLDS[num_ranks] = ranks


class Ranks:
    """Processes with a pipe each, waiting for calls."""

    def __init__(self, num_ranks: int, python_path: str | None = None) -> None:
        self._directory = tempfile.TemporaryDirectory()
        store = Path(self._directory.name) / "rendezvous"
        context = mp.get_context("spawn" if python_path else "forkserver")
        if not python_path:
            context.set_forkserver_preload(IMPORTED_ONCE)
        environment, path = CHILD_ENVIRONMENT, sys.path
        if python_path:
            environment = environment | {"PYTHONPATH": python_path}
            path = [*path, *python_path.split(os.pathsep)]
        self._pipes, self._processes = [], []
        with patch.dict(os.environ, environment), patch.object(sys, "path", path):
            for rank in range(num_ranks):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(rank, num_ranks, str(store), theirs), daemon=True
                )
                process.start()
                self._pipes.append(ours)
                self._processes.append(process)

    def run(self, function: Callable[..., None], args: tuple[Any, ...], timeout_s: float) -> None:
        for pipe in self._pipes:
            pipe.send((function, args))
        deadline = time.monotonic() + timeout_s
        waiting = dict(enumerate(self._pipes))
        while waiting:
            for rank, pipe in list(waiting.items()):
                if pipe.poll(0.02):
                    failure = pipe.recv()
                    del waiting[rank]
                    if failure:
                        raise AssertionError(f"rank {rank} of {function.__name__}:\n{failure}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{function.__name__} ran past {timeout_s} s")

    @property
    def num_threads(self) -> int:
        """Those of the first rank: what a test left of gloo's groups, whose threads poll."""
        return psutil.Process(self._processes[0].pid).num_threads()

    def kill(self) -> None:
        for process in self._processes:
            process.kill()


_WORLDS: dict[int, Ranks] = {}
"""Processes that wait for a call, by their number."""


def _serve(rank: int, num_ranks: int, store: str, pipe: Connection) -> None:
    """Answer calls, each in a world of its own, whose groups' threads end with it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
    gc.freeze()
    for number in count():
        try:
            function, args = pipe.recv()
            torch.distributed.init_process_group(
                "gloo",
                init_method=f"file://{store}.{number}",
                rank=rank,
                world_size=num_ranks,
                timeout=timedelta(seconds=120),
            )
            function(*args)
            torch.distributed.barrier()
        except EOFError:
            return
        except BaseException:
            pipe.send(traceback.format_exc())
        else:
            pipe.send(None)
        close_mesh()
        torch.distributed.destroy_process_group()
        _let_go_of_groups()


def _let_go_of_groups() -> None:
    """A group's threads poll until nothing holds it. Megatron's data-parallel wrapper, which does,
    holds itself through hooks of autograd's nodes, where no collector of garbage sees the circle.
    It looks at what calls have made; half a million objects of imports are frozen.
    """
    for thing in gc.get_objects():
        if type(thing) is DistributedDataParallel:
            thing.grad_accs.clear()
    gc.collect()
