"""Files of rows, whatever their format, read one after the other: no row waits for the next."""

from gkdplan.rowfiles.formats import ForeignFormatError, open_rows
from gkdplan.rowfiles.row_file import Identity, MissingPackageError, RowFile

__all__ = ["ForeignFormatError", "Identity", "MissingPackageError", "RowFile", "open_rows"]
