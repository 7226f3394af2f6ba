"""Which format a path is in: its extension says it, or what its folder holds."""

import os
from collections.abc import Callable

from gkdplan.rowfiles.columns import Arrow, Parquet, SavedDataset
from gkdplan.rowfiles.lines import Lines
from gkdplan.rowfiles.lists import OneList
from gkdplan.rowfiles.row_file import RowFile
from gkdplan.rowfiles.tables import Table

FORMATS: dict[str, Callable[[str], RowFile]] = {
    ".jsonl": Lines,
    ".json": OneList,
    ".csv": Table,
    ".parquet": Parquet,
    ".arrow": Arrow,
}
KNOWN = (
    "known are .jsonl (one row a line), .json (one list), .csv, .parquet, .arrow, and directories "
    "that `save_to_disk` of Hugging Face's datasets wrote"
)


class ForeignFormatError(Exception):
    """A path in no format of rows; `notes` say why."""

    def __init__(self, *notes: str) -> None:
        super().__init__(*notes)
        self.notes = notes


def open_rows(path: str) -> RowFile:
    """The rows at a path, which may not be there. Raises ForeignFormatError."""
    if "://" in path:
        raise ForeignFormatError("rows are files of this machine: nothing is downloaded", KNOWN)
    if path and os.path.isdir(path):
        return SavedDataset(path)
    extension = os.path.splitext(path)[1].lower()
    if extension == ".py":
        raise ForeignFormatError("no code of a dataset is run", KNOWN)
    if extension not in FORMATS:
        raise ForeignFormatError(KNOWN)
    return FORMATS[extension](path)
