"""A column of lists, one a row, in two files: all values one after another, and where each ends."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS, BYTES = "<i4", "u1"
_ENDS = "<i8"


class ColumnWriter:
    """Puts a list after the other into two new files, which hold nothing else."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        self._values = _values_of(folder, name).open("xb")
        self._ends = _ends_of(folder, name).open("xb")
        self._dtype = np.dtype(dtype)
        self._num_values = 0

    def append(self, values: Iterable[int]) -> None:
        """One row's list, each value within the column's type."""
        column = np.fromiter(values, self._dtype)
        self._num_values += column.size
        self._values.write(column.tobytes())
        self._ends.write(np.array(self._num_values, _ENDS).tobytes())

    def close(self) -> None:
        self._values.close()
        self._ends.close()


class Column:
    """The lists that a `ColumnWriter` wrote; the files are mapped, never in memory as a whole."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        self._values = _mapped(_values_of(folder, name), dtype)
        self._ends = _mapped(_ends_of(folder, name), _ENDS)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> NDArray[Any]:
        """The list of a row, counted from 0."""
        begin = int(self._ends[row - 1]) if row else 0
        return self._values[begin : int(self._ends[row])]


def _mapped(path: Path, dtype: str) -> NDArray[Any]:
    """No bytes cannot be mapped."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")


def _values_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.values"


def _ends_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.ends"
