"""The trainer's side of vLLM 0.32's weight transfer, to one server: the protocol changes between
releases, and nothing else here knows it.

A bucket of whole tensors travels as one broadcast of bytes from this process to the server's
workers, while the server's answer to `update_weights` is awaited beside it. With nccl the workers
have vLLM's own engine (vllm/distributed/weight_transfer/nccl_engine.py), with gloo that of
`worker_extension`.
"""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runtime.http_server import HttpServer, ServerGoneError, ServerRefusedError
from gkdplan.runtime.rollout.engine import NamedTensor

TRANSFER_LIMIT_S = 60.0
"""For all to meet, and for one bucket to travel and be loaded."""
POLL_S = 0.0005
OK = 200


@dataclass(frozen=True, slots=True)
class Bucket:
    """Whole tensors, one behind the other in `packed`, uint8 [bytes]."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    packed: Tensor

    @property
    def update_info(self) -> dict[str, Any]:
        return {"names": self.names, "dtype_names": self.dtypes, "shapes": self.shapes}


def buckets(tensors: Iterator[NamedTensor], bucket_bytes: int) -> Iterator[Bucket]:
    """`tensors` in buckets of at most `bucket_bytes`, which the largest of them fits into.

    All buckets share one buffer: each is gone when the next is asked for.
    """
    buffer: Tensor | None = None
    inside: list[tuple[str, str, tuple[int, ...]]] = []
    filled = 0
    for name, tensor in tensors:
        flat = tensor.contiguous().view(-1).view(torch.uint8)
        if buffer is None:
            buffer = flat.new_empty(bucket_bytes)
        if filled + len(flat) > bucket_bytes:
            yield Bucket(*zip(*inside, strict=True), buffer[:filled])
            inside, filled = [], 0
        buffer[filled : filled + len(flat)].copy_(flat)
        filled += len(flat)
        inside.append((name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)))
    if buffer is not None:
        yield Bucket(*zip(*inside, strict=True), buffer[:filled])


class WeightLine:
    """A server, and the group of this process and its workers.

    Every method raises ServerGoneError where the server does not answer in time, and
    ServerRefusedError where it answers with an error.
    """

    def __init__(self, server: HttpServer, backend: str, bucket_bytes: int) -> None:
        self.server = server
        self._posts = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights")
        self._broadcast = self._meet(backend, bucket_bytes)

    def start(self) -> None:
        """Begin an update: the server serves no prompts until `finish`."""
        try:
            self._post("/start_weight_update")
        except ServerRefusedError:  # an update that its trainer did not live to finish
            self._post("/finish_weight_update")
            self._post("/start_weight_update")

    def send(self, bucket: Bucket) -> None:
        answer = self._posts.submit(
            self._post, "/update_weights", {"update_info": bucket.update_info}
        )
        self._broadcast(bucket.packed, answer)
        answer.result()

    def finish(self, version: str) -> str:
        """End the update, forget what was cached of prompts and of images by the old weights, and
        return the version that the server says it has."""
        self._post("/finish_weight_update", {"weight_version": version})
        if not self._post("/reset_prefix_cache")["success"]:
            raise ServerRefusedError(self.server.url, OK, "it still holds prompts of old weights")
        self._post("/reset_encoder_cache")
        return str(self.server.get("/weight_info", TRANSFER_LIMIT_S)["weight_version"])

    def close(self) -> None:
        self._posts.shutdown(wait=False)

    def _meet(self, backend: str, bucket_bytes: int) -> "Broadcast":
        num_workers = self.server.get("/get_world_size", TRANSFER_LIMIT_S)["world_size"]
        open_group = _gloo_group if backend == "gloo" else _nccl_group
        address = _own_address(self.server.url)

        def ask_to_join(port: int) -> Future[Any]:
            info = {
                "master_address": address,
                "master_port": port,
                "rank_offset": 1,
                "world_size": 1 + num_workers,
                "packed": True,
                "packed_buffer_size_bytes": bucket_bytes,
            }
            return self._posts.submit(
                self._post, "/init_weight_transfer_engine", {"init_info": info}
            )

        return open_group(address, 1 + num_workers, ask_to_join)

    def _post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self.server.post(path, body or {}, TRANSFER_LIMIT_S)


Broadcast = Callable[[Tensor, Future[Any]], None]
"""Sends bytes to all workers while a server's answer is awaited, which says if they take them."""
AskToJoin = Callable[[int], Future[Any]]
"""Has the server's workers join the group that meets at a port."""


def _gloo_group(address: str, world_size: int, ask_to_join: AskToJoin) -> Broadcast:
    limit = timedelta(seconds=TRANSFER_LIMIT_S)
    store = dist.TCPStore(
        address, 0, world_size, is_master=True, wait_for_workers=False, timeout=limit
    )
    joined = ask_to_join(store.port)
    try:
        group = dist.ProcessGroupGloo(store, 0, world_size, limit)
    except RuntimeError as failure:
        raise _reason(joined, failure) from failure
    joined.result()

    def broadcast(packed: Tensor, answer: Future[Any]) -> None:
        work = group.broadcast([packed], dist.BroadcastOptions())
        while not work.is_completed():
            if answer.done():
                answer.result()
            time.sleep(POLL_S)
        try:
            work.wait()
        except RuntimeError as failure:
            raise _reason(answer, failure) from failure

    return broadcast


def _nccl_group(address: str, world_size: int, ask_to_join: AskToJoin) -> Broadcast:
    """vLLM's own endpoint, on this process's device."""
    from vllm.distributed.weight_transfer.nccl_common import trainer_init

    port = _free_port(address)
    joined = ask_to_join(port)
    group = trainer_init({"master_address": address, "master_port": port, "world_size": world_size})
    joined.result()

    def broadcast(packed: Tensor, answer: Future[Any]) -> None:
        if answer.done():
            answer.result()
        group.broadcast(packed, src=0, stream=torch.cuda.current_stream())
        torch.cuda.current_stream().synchronize()

    return broadcast


def _reason(answer: Future[Any], failure: Exception) -> Exception:
    """What the server said of a broadcast that failed, or that its workers are gone."""
    said = answer.exception(timeout=TRANSFER_LIMIT_S)
    return said if isinstance(said, Exception) else ServerGoneError(f"its workers: {failure}")


def _own_address(url: str) -> str:
    """This machine's address as the server sees it."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))  # a datagram's: nothing is sent
        return str(probe.getsockname()[0])


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
