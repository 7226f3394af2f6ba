"""The student's samples from servers of vLLM, which share the prompts and are sent its weights."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.pool import AsyncResult, ThreadPool

import torch.distributed as dist

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.http_server import HttpServer, ServerGoneError, ServerRefusedError
from gkdplan.runtime.rollout.asking import KEY, Vocabulary, ask, label_of
from gkdplan.runtime.rollout.engine import Completion, NamedTensor, Request
from gkdplan.runtime.rollout.images import name_in_vllm, under_names_of_vllm
from gkdplan.runtime.rollout.servers import Wanted, unfit
from gkdplan.runtime.rollout.weight_transfer import Bucket, WeightLine, buckets
from gkdplan.vision import VisionShape

MAX_IN_FLIGHT = 128
"""Prompts that one server has at a time."""
RESTART_POLL_S = 1.0

Weights = Callable[[], Iterator[NamedTensor]]
"""The student's as they are; collective over all ranks."""


Begun = tuple[ThreadPool, AsyncResult[None], Sequence[Request], Sampling, dict[int, Completion]]


@dataclass(slots=True)
class ServedEngine:
    """A RolloutEngine: rank 0 asks for all rows, the servers draw them.

    A server that goes away leaves its prompts to the others. Where none is left, rank 0 waits for
    one to come back for `patience_s` and has the weights sent again. `names` are those of all
    tensors: of one that is missing, or of another size, vLLM says nothing. `run` tells this run's
    weights from another's. `vision` is that of a model that sees.
    """

    servers: Sequence[HttpServer]
    backend: str
    bucket_bytes: int
    names: frozenset[str]
    vocabulary: Vocabulary
    weights: Weights
    wanted: Wanted
    run: str
    vision: VisionShape | None = None
    rank: int = 0
    tell: Callable[[str], None] = print
    patience_s: float = 180.0
    version: int = -1
    _lines: dict[str, WeightLine] = field(default_factory=dict)
    _is_ready: set[str] = field(default_factory=set)
    _begun: Begun | None = None

    def refit(self, tensors: Iterator[NamedTensor], version: int) -> None:
        """Send `tensors` to every server that answers, and wait for one where none does.

        Raises UserError where a server refuses them (GK543), and where all stay away (GK546).
        """
        self._send(tensors, version)
        while self._on_all_ranks(not self._is_ready):
            self._send_again(version)

    def share(self, num_rows: int) -> range:
        return range(num_rows if self.rank == 0 else 0)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion a request, in order; collective over all ranks.

        Raises UserError as `ask` does, and where all servers stay away (GK546).
        """
        self.begin(requests, sampling)
        return self.finish(self.version)

    def begin(self, requests: Sequence[Request], sampling: Sampling) -> None:
        """Have completions drawn in the background; there is no other call until `finish`."""
        done: dict[int, Completion] = {}
        background = ThreadPool(1)
        asking = background.apply_async(self._ask_all, (requests, sampling, done))
        self._begun = background, asking, requests, sampling, done

    def finish(self, version: int) -> list[Completion]:
        """What was begun, in order; collective over all ranks.

        Where all servers go away, the rest is drawn by the weights as they are by now, of
        `version`. Raises as `generate` does.
        """
        assert self._begun is not None, "nothing was begun"
        background, asking, requests, sampling, done = self._begun
        self._begun = None
        with background:
            asking.get()
        while self._on_all_ranks(len(done) < len(requests)):
            self._send_again(version)
            self._ask_all(requests, sampling, done)
        return [done[index] for index in range(len(requests))]

    def close(self) -> None:
        for line in self._lines.values():
            line.close()
        self._lines.clear()

    def _ask_all(
        self, requests: Sequence[Request], sampling: Sampling, done: dict[int, Completion]
    ) -> None:
        """Ask for what is not yet in `done`, as long as a server is left."""
        while self._is_ready and (missing := [i for i in range(len(requests)) if i not in done]):
            waiting = deque(missing)
            ready = [server for server in self.servers if server.url in self._is_ready]
            num_each = min(MAX_IN_FLIGHT, -(-len(missing) // len(ready)))

            def ask_on(server: HttpServer, waiting: deque[int] = waiting) -> None:
                while server.url in self._is_ready:
                    try:
                        index = waiting.popleft()
                    except IndexError:
                        return
                    self._ask_one(server, index, requests[index], sampling, done)

            # what hangs is not waited for where another answer cannot be, nor by the process's end
            with ThreadPool(num_each * len(ready)) as pool:
                for _ in pool.imap_unordered(ask_on, ready * num_each):
                    pass

    def _ask_one(
        self,
        server: HttpServer,
        index: int,
        request: Request,
        sampling: Sampling,
        done: dict[int, Completion],
    ) -> None:
        try:
            done[index] = ask(server, request, sampling, self.vocabulary, self.run, self.version)
        except ServerGoneError as failure:
            self._lose(server, failure)

    @property
    def _label(self) -> str:
        return label_of(self.run, self.version)

    def _send(self, tensors: Iterator[NamedTensor], version: int) -> None:
        """To all servers that answer; every rank iterates to the end."""
        self.version = version
        self._is_ready.clear()
        if self.rank != 0:
            deque(tensors, maxlen=0)
            return
        self._each(self.servers, self._open_line)
        self._each(self._live(), lambda server: self._lines[server.url].start())
        names = set[str]()
        for bucket in buckets(under_names_of_vllm(self.vision, tensors), self.bucket_bytes):
            names.update(bucket.names)
            self._each(self._live(), self._sending(bucket))
        expected = {name_in_vllm(self.vision, name) for name in self.names}
        assert names == expected, f"tensors sent: {sorted(names ^ expected)} differ"
        self._each(self._live(), self._finish)

    def _open_line(self, server: HttpServer) -> None:
        if server.url not in self._lines:
            if (found := unfit(server, self.wanted)) is not None:
                raise UserError(found)
            self._lines[server.url] = WeightLine(server, self.backend, self.bucket_bytes)

    def _sending(self, bucket: Bucket) -> Callable[[HttpServer], None]:
        return lambda server: self._lines[server.url].send(bucket)

    def _finish(self, server: HttpServer) -> None:
        version = self._lines[server.url].finish(self._label)
        assert version == self._label, f"{server.url} has {version} after {self._label} was sent"
        self._is_ready.add(server.url)

    def _live(self) -> list[HttpServer]:
        return [server for server in self.servers if server.url in self._lines]

    def _each(self, servers: Sequence[HttpServer], act: Callable[[HttpServer], None]) -> None:
        """At one time; a server that does not answer has no line any more."""

        def try_on(server: HttpServer) -> None:
            try:
                act(server)
            except ServerGoneError as failure:
                self._lose(server, failure)
            except ServerRefusedError as refusal:
                raise UserError(_refused(server, refusal)) from refusal

        if servers:
            with ThreadPoolExecutor(len(servers)) as pool:
                list(pool.map(try_on, servers))

    def _lose(self, server: HttpServer, failure: ServerGoneError) -> None:
        self._is_ready.discard(server.url)
        if (line := self._lines.pop(server.url, None)) is not None:
            line.close()
            self.tell(f"the server at {server.url} went away: {failure}")

    def _send_again(self, version: int) -> None:
        """Wait for a server, and send the weights as they are, of `version`."""
        if self.rank == 0:
            self._wait_for_one()
        self._send(self.weights(), version)

    def _wait_for_one(self) -> None:
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline:
            for server in self.servers:
                with suppress(ServerGoneError, ServerRefusedError):
                    server.get("/health", RESTART_POLL_S)
                    return
            time.sleep(RESTART_POLL_S)
        raise UserError(_all_gone(self.servers, self.patience_s))

    def _on_all_ranks(self, is_so: bool) -> bool:
        """What rank 0 found."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return is_so
        found = [is_so]
        dist.broadcast_object_list(found, src=0)
        return found[0]


def _refused(server: HttpServer, refusal: ServerRefusedError) -> Diagnostic:
    return error(
        "GK543",
        f"the server at {server.url} refuses the student's weights",
        KEY,
        label="it would sample with others",
        notes=(str(refusal),),
        help=("start it with `gkdplan serve PLAN`: its model must have the student's shape",),
    )


def _all_gone(servers: Sequence[HttpServer], limit_s: float) -> Diagnostic:
    addresses = ", ".join(server.url for server in servers)
    return error(
        "GK546",
        f"no server answered for {limit_s:g} seconds: {addresses}",
        KEY,
        label="the student's samples are drawn there",
        help=("start one with `gkdplan serve PLAN`, then run the same command again",),
    )
