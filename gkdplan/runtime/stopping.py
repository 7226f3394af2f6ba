"""A run that is asked to stop: it finishes its step, saves and ends, to be resumed.

SIGTERM and SIGUSR1 are what schedulers send before they take a machine back. The launcher notes
the first of them in a file, which every rank looks for after each step; a second one ends the run
at once. The ranks may get the same signal, as schedulers send it to every process: one that sees no
request within a second was meant alone, and dies of it.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class StopRequest:
    """The file that asks the ranks of a run to stop; it holds the signal's name."""

    path: Path

    def ask(self, number: int) -> None:
        self.path.write_text(signal.Signals(number).name, encoding="utf-8")

    @property
    def is_made(self) -> bool:
        return self.path.exists()

    @property
    def signal_name(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def is_seen_by_a_rank(self, device: torch.device) -> bool:
        """Whether any rank sees it; collective, so that all of them stop after the same step."""
        seen = torch.tensor(int(self.is_made), device=device)
        dist.all_reduce(seen, dist.ReduceOp.MAX)
        return bool(seen)


def take_signals_of_a_rank(request: StopRequest) -> None:
    """In a rank, which inherited `SIGNALS` as blocked: let none of them end it where the run was
    asked to stop."""
    threading.Thread(target=_wait, args=(request,), name="takes signals", daemon=True).start()


def _wait(request: StopRequest) -> None:
    while True:
        number = signal.sigwait(SIGNALS)
        deadline = time.monotonic() + PATIENCE_S
        while not request.is_made and time.monotonic() < deadline:
            time.sleep(0.02)
        if not request.is_made:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.kill(os.getpid(), number)
