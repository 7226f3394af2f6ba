"""A disk that fills up while a run writes to it."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from gkdplan.diagnostics import UserError, error

CODE = "GK536"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(output: Path) -> Iterator[None]:
    """Raises UserError (GK536) where a write inside fails because the disk of `output` is full."""
    try:
        yield
    except (OSError, SafetensorError) as failure:
        if not _is_full(failure):
            raise
        raise UserError(
            error(
                CODE,
                f"the disk of `{output}` is full",
                "run.output",
                notes=(f"{shutil.disk_usage(output).free:,} bytes are free", str(failure)),
                help=("free space and run the same command again: checkpoints are whole",),
            )
        ) from failure


def _is_full(failure: OSError | SafetensorError) -> bool:
    """safetensors has the system's number in its words only."""
    if isinstance(failure, OSError):
        return failure.errno in _FULL
    return any(f"os error {number}" in str(failure) for number in _FULL)
