"""Where a run's scalars are drawn and its answers shown, besides its own files: TensorBoard,
Weights & Biases."""

import hashlib
import os
from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from gkdplan.diagnostics import Diagnostic, error


class Board(Protocol):
    """A place for scalars and words by name and step."""

    def plot(self, step: int, name: str, value: float) -> None: ...

    def write(self, step: int, name: str, words: str) -> None: ...

    def close(self) -> None: ...


def open_boards(
    loggers: Sequence[str], run_dir: Path, start_step: int, name: str, fingerprint: str
) -> tuple[Board, ...]:
    """The boards of a run, which go on after `start_step`; they write into the run directory."""
    boards: list[Board] = []
    if "tensorboard" in loggers:
        boards.append(TensorBoard(run_dir, start_step))
    if "wandb" in loggers:
        boards.append(WandB(run_dir, name, fingerprint))
    return tuple(boards)


def has_wandb() -> bool:
    """Whether it is installed; it is not imported, which takes seconds."""
    return find_spec("wandb") is not None


def no_wandb() -> Diagnostic:
    """GK507."""
    return error(
        "GK507",
        "the plan logs to wandb, which is not installed here",
        "run.loggers",
        help=("install it: `pip install 'gkdplan[run,wandb]'`", "or take it out of `run.loggers`"),
    )


class TensorBoard:
    """tensorboard/ of the run directory; steps behind the one it goes on after are purged."""

    def __init__(self, run_dir: Path, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        first_step = start_step + 1 if start_step else 0
        self._writer = SummaryWriter(run_dir / "tensorboard", purge_step=first_step)

    def plot(self, step: int, name: str, value: float) -> None:
        self._writer.add_scalar(name, value, step)

    def write(self, step: int, name: str, words: str) -> None:
        """As it stands: a text of a board is Markdown."""
        indented = "".join(f"    {line}\n" for line in words.split("\n"))
        self._writer.add_text(name, indented, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """wandb/ of the run directory, offline unless $WANDB_MODE says otherwise: nothing leaves the
    machine unasked, and nobody is asked for a key. A resumed run has the same id."""

    def __init__(self, run_dir: Path, name: str, fingerprint: str) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        import wandb

        identity = f"{fingerprint} {run_dir.resolve()}".encode()
        self._run: Any = wandb.init(
            project="gkdplan",
            name=name,
            id=hashlib.sha256(identity).hexdigest()[:16],
            dir=run_dir,
            resume="allow",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_job_creation=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )

    def plot(self, step: int, name: str, value: float) -> None:
        self._run.log({name: value}, step=step)

    def write(self, step: int, name: str, words: str) -> None:
        import wandb

        self._run.log({name: wandb.Html(f"<pre>{escape(words)}</pre>", inject=False)}, step=step)

    def close(self) -> None:
        self._run.finish()
