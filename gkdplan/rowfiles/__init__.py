"""Rows of files that are tables (CSV, Parquet, Arrow): one at a time, with the place of each.

What reads JSON is elsewhere, for its findings name lines and columns of the text.
"""

from gkdplan.rowfiles.table import (
    FORMATS,
    BadRow,
    NoReaderError,
    Table,
    TableError,
    fingerprint_of,
    is_table,
    open_table,
)

__all__ = [
    "FORMATS",
    "BadRow",
    "NoReaderError",
    "Table",
    "TableError",
    "fingerprint_of",
    "is_table",
    "open_table",
]
