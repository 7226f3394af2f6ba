"""Parquet, and the Arrow files of a dataset that was saved to disk, a batch of rows at a time."""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from gkdplan.rowfiles.table import NoReaderError, Table, TableError

ROWS_OF_A_BATCH = 256


def read_parquet(path: str) -> Table:
    """Raises TableError, and NoReaderError without pyarrow."""
    arrow = _arrow()
    try:
        file = arrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as failure:
        raise TableError(f"is not Parquet: {_first_line(failure)}") from failure
    batches = file.iter_batches(batch_size=ROWS_OF_A_BATCH)
    return Table(_rows(path, batches, arrow), file.metadata.num_rows)


def read_saved(directory: str) -> Table:
    """What `Dataset.save_to_disk` wrote: state.json names the Arrow files, in their order.

    Raises TableError, also for a DatasetDict, whose splits are directories of their own, and
    NoReaderError without pyarrow.
    """
    if splits := _json(directory, "dataset_dict.json").get("splits"):
        within = " or ".join(f'"{os.path.join(directory, str(split))}"' for split in splits)
        raise TableError(f"holds several splits: name one, {within}")
    state = _json(directory, "state.json")
    files = [entry.get("filename") for entry in state.get("_data_files", ())]
    if not files or not all(_is_inside(name) for name in files):
        raise TableError("is a directory, and none that `save_to_disk` wrote")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise TableError("orders its rows by indices: save it after `flatten_indices()`")
    arrow = _arrow()
    paths = [os.path.join(directory, name) for name in files]
    return Table(_rows(directory, _batches(paths, arrow), arrow))


def _batches(paths: Iterable[str], arrow: Any) -> Iterator[Any]:
    for path in paths:
        with arrow.memory_map(path) as file:
            for batch in arrow.ipc.open_stream(file):
                for start in range(0, batch.num_rows, ROWS_OF_A_BATCH):
                    yield batch.slice(start, ROWS_OF_A_BATCH)


def _rows(path: str, batches: Iterable[Any], arrow: Any) -> Iterator[tuple[str, dict[str, object]]]:
    number = 0
    try:
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", _without_nulls(row)
    except (OSError, ValueError, arrow.ArrowException) as failure:
        raise TableError(f"cannot be read after row {number}: {_first_line(failure)}") from failure


def _without_nulls(cell: Any) -> Any:
    match cell:
        case dict():
            return {key: _without_nulls(inner) for key, inner in cell.items() if inner is not None}
        case list():
            return [_without_nulls(inner) for inner in cell]
        case _:
            return cell


def _json(directory: str, name: str) -> dict[str, Any]:
    """{} where the file is not there."""
    try:
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as failure:
        raise TableError(f"has a {name} that cannot be read") from failure
    return value if isinstance(value, dict) else {}


def _is_inside(name: object) -> bool:
    return isinstance(name, str) and name == os.path.basename(name) and name not in ("", ".", "..")


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as failure:
        raise NoReaderError("is read by pyarrow, which is not installed") from failure
    return pyarrow


def _first_line(failure: Exception) -> str:
    return str(failure).split("\n")[0][:200] or type(failure).__name__
