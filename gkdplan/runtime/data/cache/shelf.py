"""A directory of tokenised splits: rank 0 fills it, every rank maps what lies there."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.records import from_json
from gkdplan.runtime.data.cache.copies import PLACE, flaw_of
from gkdplan.runtime.data.cache.identity import identity_of
from gkdplan.runtime.data.cache.images import chat_with_copies
from gkdplan.runtime.data.cache.owned import KeptIn
from gkdplan.runtime.data.cache.stored import StoredExamples, store
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.data.examples import Examples, Split, load_examples
from gkdplan.runtime.data.rows import open_unchanged
from gkdplan.runtime.saved.manifest import flaw, write_manifest

FOUND, IMAGES, COPIES = "split.json", "images.json", "copies.json"
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
        """Those of the split, tokenised by rank 0 unless an earlier run left them here; so are the
        images that rows name by address, fetched by rank 0. Collective over all ranks, which wait
        for as long as it takes.

        Raises UserError as `load_examples` and `chat_with_copies` do, and where the directory
        cannot be used (GK493), or is not the same one for all ranks (GK494).
        """
        if not split.sources:
            return Examples(split.key, (), 0, 0, 0)
        folder = self.directory / identity_of(split, self.student)
        if dist.get_rank() == 0:
            place = KeptIn(self.directory, self.key)
            with place.alone(folder.name, self.tell, "tokenises the same rows in"):
                self._fill(folder, split, place)
        wait_for_rank_0()
        if not folder.is_dir():
            raise UserError(self._elsewhere(folder))
        return _open(folder)

    def _fill(self, folder: Path, split: Split, place: KeptIn) -> None:
        if folder.is_dir():
            reason = flaw(folder) or _changed_image(folder) or _flawed_copy(folder)
            if reason is None:
                for i, source in enumerate(split.sources):
                    open_unchanged(source, f"{split.key}[{i}]")
                self.tell(f"`{split.key}` is tokenised already, in {folder}")
                return
            self.tell(f"`{split.key}` is tokenised anew: in {folder} {reason}")
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        chat = chat_with_copies(self.chat, split, place, self.tell)
        found = load_examples(split, chat, lambda rows: store(partial, rows))
        _write(partial / FOUND, asdict(replace(found, examples=())))
        _write(partial / IMAGES, _images(found))
        _write(partial / COPIES, _copies(found))
        write_manifest(partial, {})
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

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
    shown = (one.picture for example in found.examples for one in example.shown)
    return {p.path: _state(p.path) for p in shown if p.path is not None and p.address is None}


def _copies(found: Examples) -> dict[str, str]:
    """Of every address that a row shows the image of, the sha256 of its copy."""
    shown = (one.picture for example in found.examples for one in example.shown)
    return {p.address: p.sha256 for p in shown if p.address is not None and p.sha256 is not None}


def _flawed_copy(folder: Path) -> str | None:
    """What to say of the first that is not whole, if any is."""
    copies: dict[str, str] = json.loads((folder / COPIES).read_text(encoding="utf-8"))
    flaws = (flaw_of(folder.parent / PLACE, *copy) for copy in copies.items())
    return next(filter(None, flaws), None)


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


def wait_for_rank_0() -> None:
    """By the store in which ranks met: the patience of collectives is that of a step. Ranks count
    alike how often they have waited."""
    if dist.get_world_size() > 1:
        store, key = dist.distributed_c10d._get_default_store(), f"rows/{next(_WAITS)}"
        if dist.get_rank() == 0:
            store.set(key, "there")
        store.wait([key], AS_LONG_AS_IT_TAKES)
