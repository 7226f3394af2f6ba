"""A directory of tokenised splits: rank 0 fills it, every rank maps what lies there."""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.records import from_json
from gkdplan.runtime.data.cache.identity import identity_of
from gkdplan.runtime.data.cache.stored import StoredExamples, store
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.data.examples import Examples, Split, load_examples
from gkdplan.runtime.data.rows import open_unchanged
from gkdplan.runtime.saved.full_disk import disk_errors
from gkdplan.runtime.saved.manifest import flaw, write_manifest

FOUND, IMAGES = "split.json", "images.json"
AS_LONG_AS_IT_TAKES = timedelta(days=30)
_WAITS = count()


@dataclass(frozen=True, slots=True)
class Shelf:
    """Keeps splits in `directory`, which the plan's `key` names, as `chat` makes tokens of them;
    its tokenizer's files are in `student`. What a person should know goes to `tell`."""

    directory: Path
    key: str
    chat: Chat
    student: Path
    tell: Callable[[str], None]

    def examples(self, split: Split) -> Examples:
        """Those of the split, tokenised by rank 0 unless an earlier run left them here; collective
        over all ranks, which wait for as long as it takes.

        Raises UserError as `load_examples` does, and where the directory cannot be used (GK493),
        or is not the same one for all ranks (GK494).
        """
        if not split.sources:
            return Examples(split.key, (), 0, 0, 0)
        folder = self.directory / identity_of(split, self.student)
        if dist.get_rank() == 0:
            with self._owned(folder):
                self._fill(folder, split)
        _wait_for_rank_0()
        if not folder.is_dir():
            raise UserError(self._elsewhere(folder))
        return _open(folder)

    @contextmanager
    def _owned(self, folder: Path) -> Iterator[None]:
        """One run at a time writes a folder."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = folder.with_suffix(".lock").open("w")
        except OSError as failure:
            raise UserError(self._unusable(failure)) from failure
        with lock, disk_errors(self.directory, self.key):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.tell(f"another run tokenises the same rows in {self.directory}: waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fill(self, folder: Path, split: Split) -> None:
        if folder.is_dir():
            reason = flaw(folder) or _changed_image(folder)
            if reason is None:
                for i, source in enumerate(split.sources):
                    open_unchanged(source, f"{split.key}[{i}]")
                self.tell(f"`{split.key}` is tokenised already, in {folder}")
                return
            self.tell(f"`{split.key}` is tokenised anew: in {folder} {reason}")
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        found = load_examples(split, self.chat, lambda rows: store(partial, rows))
        _write(partial / FOUND, asdict(replace(found, examples=())))
        _write(partial / IMAGES, _images(found))
        write_manifest(partial, {})
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    def _unusable(self, failure: OSError) -> Diagnostic:
        reason = (failure.strerror or type(failure).__name__).lower()
        return error(
            "GK493",
            f"the tokens of rows cannot be kept in `{self.directory}`: {reason}",
            self.key,
            help=(f"name a directory in `{self.key}` that can be written",),
        )

    def _elsewhere(self, folder: Path) -> Diagnostic:
        return error(
            "GK494",
            f"rank {dist.get_rank()} on {socket.gethostname()} does not find the tokens that rank "
            f"0 has put into `{folder}`",
            self.key,
            notes=("their name is of the data, the tokenizer's files, and the versions that read",),
            help=(
                f"let `{self.key}` be a path that all hosts share, with one version of the student "
                "and of gkdplan's packages on all",
            ),
        )


def _open(folder: Path) -> Examples:
    found = json.loads((folder / FOUND).read_text(encoding="utf-8"))
    return Examples(
        found["key"],
        StoredExamples(folder),
        found["num_deleted"],
        found["num_truncated"],
        found["num_cut"],
        found["longest"] and tuple(found["longest"]),
        tuple(found["file_sizes"]),
        tuple(from_json(Diagnostic, refusal) for refusal in found["bad_rows"]),
    )


def _images(found: Examples) -> dict[str, list[int]]:
    """Of every file of an image that a row shows, its bytes and when it was changed, in ns."""
    shown = (one.picture.path for example in found.examples for one in example.shown)
    return {path: _state(path) for path in shown if path is not None}


def _changed_image(folder: Path) -> str | None:
    """What to say of one that is another than when it was measured, if any is."""
    for path, state in json.loads((folder / IMAGES).read_text(encoding="utf-8")).items():
        if not os.path.exists(path) or _state(path) != state:
            return f"`{path}` is another than it was"
    return None


def _state(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record), encoding="utf-8")


def _wait_for_rank_0() -> None:
    """By the store in which ranks met: the patience of collectives is that of a step. Ranks count
    alike how often they have waited."""
    if dist.get_world_size() > 1:
        store, key = dist.distributed_c10d._get_default_store(), f"rows/{next(_WAITS)}"
        if dist.get_rank() == 0:
            store.set(key, "there")
        store.wait([key], AS_LONG_AS_IT_TAKES)
