"""Formats of columns, which pyarrow reads: Parquet, Arrow, and folders of `save_to_disk`.

Arrow's types hold data alone: nothing is unpickled, and no code of a dataset is run.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from typing import Any, TypeGuard

from gkdplan.json_file import UnreadableError, opened, read_object
from gkdplan.rowfiles.row_file import (
    CHUNK_BYTES,
    Identity,
    Located,
    MissingPackageError,
    fingerprint_of,
)

ROWS_AT_ONCE = 256
MAX_STATE_BYTES = 16 * 2**20
STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Parquet:
    """A .parquet file."""

    path: str

    @property
    def num_bytes(self) -> int:
        return os.path.getsize(self.path)

    def identity(self) -> Identity:
        with _parquet(self.path) as file:
            return Identity(fingerprint_of(self.path), file.metadata.num_rows)

    def rows(self) -> Iterator[Located]:
        with _parquet(self.path) as file:
            yield from _numbered(self.path, file.iter_batches(ROWS_AT_ONCE))


@dataclass(frozen=True, slots=True)
class Arrow:
    """A .arrow file: a stream of record batches, as `datasets` writes it, or a file of them."""

    path: str

    @property
    def num_bytes(self) -> int:
        return os.path.getsize(self.path)

    def identity(self) -> Identity:
        with _batches(self.path) as batches:
            return Identity(fingerprint_of(self.path), sum(batch.num_rows for batch in batches))

    def rows(self) -> Iterator[Located]:
        with _batches(self.path) as batches:
            yield from _numbered(self.path, batches)


@dataclass(frozen=True, slots=True)
class SavedDataset:
    """A folder that `Dataset.save_to_disk` wrote; its rows are numbered through its files."""

    path: str

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self._files())

    def identity(self) -> Identity:
        digest, num_rows = sha256(), 0
        for file in self._files():
            found = file.identity()
            digest.update(f"{found.fingerprint}  {os.path.basename(file.path)}\n".encode())
            num_rows += found.num_rows
        return Identity(digest.hexdigest(), num_rows)

    def rows(self) -> Iterator[Located]:
        number = 0
        for file in self._files():
            for _, row in file.rows():
                number += 1
                yield f"{self.path}, row {number}", row

    def _files(self) -> list[Arrow]:
        state = _json(self.path, STATE)
        if state.get("_indices_data_files") or state.get("_indices_files"):
            raise UnreadableError("orders its rows by indices: save it after `flatten_indices()`")
        entries = state.get("_data_files")
        entries = entries if isinstance(entries, list) else []
        names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
        files = [Arrow(os.path.join(self.path, name)) for name in names if _is_plain(name)]
        if not files or len(files) != len(names):
            raise UnreadableError(self._reason())
        return files

    def _reason(self) -> str:
        splits = _json(self.path, "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not splits:
            return "is a directory, and none that `save_to_disk` wrote"
        within = " or ".join(f'"{os.path.join(self.path, str(split))}"' for split in splits)
        return f"holds several splits: name one, {within}"


def _json(directory: str, name: str) -> dict[str, object]:
    """{} where the file is not there. Raises UnreadableError."""
    path = os.path.join(directory, name)
    try:
        return read_object(path, MAX_STATE_BYTES) if os.path.lexists(path) else {}
    except UnreadableError as failure:
        raise UnreadableError(f"has a {name} that {failure}") from failure


def _is_plain(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and name == os.path.basename(name) and name.endswith(".arrow")


def _numbered(path: str, batches: Any) -> Iterator[Located]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", _without_nulls(row)


def _without_nulls(value: Any) -> Any:
    """A column gives every row each of its keys: those of null are none of the row's."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


@contextmanager
def _parquet(path: str) -> Iterator[Any]:
    with _reading(path, "Parquet"):
        yield _arrow("pyarrow.parquet").ParquetFile(path, buffer_size=CHUNK_BYTES, pre_buffer=False)


@contextmanager
def _batches(path: str) -> Iterator[Any]:
    with _reading(path, "Arrow"):
        arrow, ipc = _arrow("pyarrow"), _arrow("pyarrow.ipc")
        with arrow.memory_map(path) as memory:
            if memory.read(6) == b"ARROW1":
                reader = ipc.open_file(memory)
                yield (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                memory.seek(0)
                yield ipc.open_stream(memory)


@contextmanager
def _reading(path: str, name: str) -> Iterator[None]:
    with opened(path):
        invalid = _arrow("pyarrow").ArrowException
        try:
            yield
        except (invalid, OSError) as failure:
            words = " ".join(str(failure).split())[:200]
            raise UnreadableError(f"is not {name}: {words}") from failure


def _arrow(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as failure:
        raise MissingPackageError("pyarrow") from failure
