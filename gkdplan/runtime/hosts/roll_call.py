"""Which ranks still answer when one of them could not go on, and where they are.

Each rank has a thread that waits in the process group's store to be called. The first rank that
fails calls all of them, hears who answers and writes the verdict for all. No clock runs meanwhile:
the time limit that a failure comes from is the process group's.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch.distributed as dist

from gkdplan.diagnostics import Diagnostic
from gkdplan.runtime.hosts.lost_ranks import Answer, master_is_gone, who_is_lost
from gkdplan.runtime.phases import Position

HEARING_S = 3.0
"""How long the ranks have to answer; a thread that is alive answers at once."""
NEVER = timedelta(days=300)

Verdict = tuple[Diagnostic, ...]


@dataclass(slots=True)
class RollCall:
    """This rank's part in it. `hosts` are those of all ranks, and `timeout_s` is the process
    groups' limit. Where `end` is given it is called, in the thread, with another rank's verdict.
    One that `is_asking` has waited too. After `verdict`, `is_judge` says whether this rank found it
    and `is_reached` whether the others could be asked."""

    store: Any
    rank: int
    hosts: Sequence[str]
    position: Position
    timeout_s: float
    end: Callable[[Verdict], None] | None = None
    is_asking: bool = False
    is_judge: bool = False
    is_reached: bool = True
    thread: threading.Thread | None = None
    connection: Any = None

    def __enter__(self) -> "RollCall":
        self.connection = self.store.clone()
        self.thread = threading.Thread(target=self._listen, name="answers", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        """The thread ends before the process does: torch aborts a process that ends around it."""
        _within(HEARING_S, lambda: self.connection.set(_called(self.rank), "dismissed"))
        assert self.thread is not None
        self.thread.join(HEARING_S)

    def verdict(self, failure: BaseException, own: Verdict = ()) -> Verdict:
        """Why the run ends, the same for every rank that asks: what the first of them found, its
        `own` findings or else the ranks that it missed."""
        self.is_asking = True
        reached = _within(3 * HEARING_S, lambda: self._judge(failure, own))
        self.is_reached = reached is not None
        return reached or own or master_is_gone(self.hosts, self.rank, self.position, failure)

    def _judge(self, failure: BaseException, own: Verdict) -> Verdict:
        store = self.connection
        if store.add("judges", 1) == 1:
            self.is_judge = True
            found = own or who_is_lost(
                self._hear(store), self.hosts, self.rank, self.position, self.timeout_s, failure
            )
            store.set("verdict", json.dumps([asdict(finding) for finding in found]))
            self._call_all(store)
        verdict = _read_verdict(store, 2 * HEARING_S)
        self._let_others_read(store)
        return verdict

    def _let_others_read(self, store: Any) -> None:
        """Without a launcher of ours the store may end with rank 0."""
        store.set(_heard(self.rank), "heard")
        if self.end is None or self.rank != 0:
            return
        deadline = time.monotonic() + HEARING_S
        others = [_heard(rank) for rank in range(1, len(self.hosts))]
        while not all(store.check([key]) for key in others) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _hear(self, store: Any) -> Mapping[int, Answer]:
        self._call_all(store)
        deadline = time.monotonic() + HEARING_S
        missing, answers = set(range(len(self.hosts))), {}
        while missing and time.monotonic() < deadline:
            for rank in [rank for rank in missing if store.check([_answer(rank)])]:
                answers[rank] = Answer(**json.loads(store.get(_answer(rank))))
                missing.remove(rank)
            time.sleep(0.05)
        return answers

    def _call_all(self, store: Any) -> None:
        for rank in range(len(self.hosts)):
            store.set(_called(rank), "called")

    def _listen(self) -> None:
        try:
            store = self.store.clone()
            store.wait([_called(self.rank)], NEVER)
            if store.get(_called(self.rank)) == b"dismissed":
                return
            store.set(_answer(self.rank), json.dumps(asdict(self._own_answer())))
            if self.end is not None and not self.is_judge:
                verdict = _read_verdict(store, 4 * HEARING_S)
                self._let_others_read(store)
                self.end(verdict)
        except RuntimeError:  # the store is gone: what waits for its host fails by itself
            return

    def _own_answer(self) -> Answer:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
        is_waiting = self.is_asking or _is_in_a_collective(frame)
        return Answer(self.position.step, self.position.phase, where, is_waiting)


def is_of_another_rank(failure: BaseException | None) -> bool:
    """Whether a failure, or one that it came from, says that another rank did not take part."""
    while failure is not None:
        if isinstance(failure, dist.DistError):
            return True
        if isinstance(failure, RuntimeError) and "gloo/transport" in str(failure):
            return True
        failure = failure.__cause__
    return False


def _is_in_a_collective(frame: FrameType | None) -> bool:
    """Megatron waits for what it sends between stages, and for sums of gradients, by itself."""
    places = ("torch/distributed/", "p2p_communication.py", "param_and_grad_buffer.py")
    for _ in range(4):
        if frame is None:
            return False
        if any(place in frame.f_code.co_filename for place in places):
            return True
        frame = frame.f_back
    return False


def _read_verdict(store: Any, limit_s: float) -> Verdict:
    store.wait(["verdict"], timedelta(seconds=limit_s))
    return tuple(Diagnostic(**found) for found in json.loads(store.get("verdict")))


def _within(limit_s: float, call: Callable[[], Any]) -> Any:
    """What the call returns, or None where it fails or is not back in time: what is sent to a host
    that was cut off waits for minutes."""
    results: list[Any] = []

    def try_it() -> None:
        try:
            results.append(call())
        except RuntimeError:
            return

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(limit_s)
    return results[0] if results else None


def _called(rank: int) -> str:
    return f"called/{rank}"


def _heard(rank: int) -> str:
    return f"heard/{rank}"


def _answer(rank: int) -> str:
    return f"answer/{rank}"
