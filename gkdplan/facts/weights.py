"""A cheap fingerprint of a checkpoint's weights."""

import os
from hashlib import sha256

from gkdplan.facts.checkpoint import weight_files
from gkdplan.facts.locate import find_snapshot
from gkdplan.facts.safetensors import read_header
from gkdplan.json_file import UnreadableError, opened

FIRST_BYTES = 4096
"""Of each tensor: a few MB of a dense model, and training moves every tensor."""


def fingerprint(model: str, revision: str | None) -> str | None:
    """sha256, in hex, over name, dtype, shape and first `FIRST_BYTES` bytes of every tensor, in the
    order of their names, whatever shards they lie in; None where no whole weights are seen.

    Weights that were trained further, or stored otherwise, have another one. Numbers that were
    edited deep in one tensor are not seen: that would take reading all of them.
    """
    directory = model if os.path.isdir(model) else find_snapshot(model, revision)
    files = [] if directory is None else weight_files(directory)
    digest = sha256()
    try:
        tensors = sorted(entry for file in files for entry in _entries(file))
    except UnreadableError:
        return None
    for name, description, first in tensors:
        digest.update(f"{name} {description} {len(first)}\n".encode())
        digest.update(first)
    return digest.hexdigest() if tensors else None


def _entries(path: str) -> list[tuple[str, str, bytes]]:
    """(name, dtype and shape, first bytes) of a file's tensors. Raises UnreadableError."""
    header = read_header(path)
    entries = []
    with opened(path) as file:
        data_begin = 8 + int.from_bytes(file.read(8), "little")
        for name, tensor in header.items():
            file.seek(data_begin + tensor.begin)
            first = file.read(min(FIRST_BYTES, tensor.end - tensor.begin))
            entries.append((name, f"{tensor.dtype} {list(tensor.shape)}", first))
    return entries
