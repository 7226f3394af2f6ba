"""The header of a safetensors file: names, dtypes and shapes, without reading a tensor.

The format: eight bytes with the header's length (little-endian), the header (a JSON object), then
the tensors' bytes, end to end (https://github.com/huggingface/safetensors, README, "Format").
"""

import os
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from gkdplan.json_file import UnreadableError, opened, parse
from gkdplan.text import printable, shown

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""
MAX_DIMS = 16

DTYPE_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a header; `begin` and `end` are bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


def read_header(path: str) -> dict[str, Tensor]:
    """The tensors of one file, by name.

    Raises UnreadableError where the file is truncated or longer than its tensors, where its header
    is not the format's, or where tensors overlap or leave gaps.
    """
    text, num_data_bytes = _read_header_text(path)
    header = parse(text)
    if not isinstance(header, dict):
        raise UnreadableError("is damaged: its header is not a JSON object")
    tensors = {name: _tensor(name, row) for name, row in header.items() if name != "__metadata__"}
    _check_extent(tensors, num_data_bytes)
    return tensors


def _read_header_text(path: str) -> tuple[bytes, int]:
    """The header and the number of bytes after it."""
    with opened(path) as file:
        file_size = os.fstat(file.fileno()).st_size
        length_field = file.read(8)
        if len(length_field) < 8:
            raise UnreadableError(f"is truncated: {file_size} bytes cannot hold a header")
        header_size = int.from_bytes(length_field, "little")
        if header_size > MAX_HEADER_BYTES:
            raise UnreadableError(f"is no safetensors file: a header of {header_size:,} bytes")
        data_begin = 8 + header_size
        if data_begin > file_size:
            ends = f"its header ends at byte {data_begin:,}, the file at {file_size:,}"
            raise UnreadableError(f"is truncated: {ends}")
        return file.read(header_size), file_size - data_begin


def _tensor(name: str, row: object) -> Tensor:
    fields = row if isinstance(row, dict) else {}
    dtype, shape = fields.get("dtype"), _sizes(fields.get("shape"))
    offsets = _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _damaged(name, f"has the dtype {shown(dtype)}")
    if shape is None:
        raise _damaged(name, f"has the shape {shown(fields.get('shape'))}")
    if offsets is None or len(offsets) != 2:
        raise _damaged(name, "has no two data offsets")
    begin, end = offsets
    if (end - begin) * 8 != prod(shape) * DTYPE_BITS[dtype]:
        raise _damaged(name, f"({dtype} {list(shape)}) does not fill its {end - begin:,} bytes")
    return Tensor(dtype, shape, begin, end)


def _sizes(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > MAX_DIMS:
        return None
    if not all(type(size) is int and 0 <= size < 2**62 for size in value):
        return None
    return tuple(value)


def _damaged(name: str, how: str) -> UnreadableError:
    return UnreadableError(f"is damaged: tensor `{printable(name)}` {how}")


def _check_extent(tensors: dict[str, Tensor], num_data_bytes: int) -> None:
    in_order = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    if in_order and in_order[0][1].begin != 0:
        raise UnreadableError("is damaged: its tensors do not start where its header ends")
    for (name, tensor), (next_name, following) in pairwise(in_order):
        if following.begin != tensor.end:
            how = "overlap" if following.begin < tensor.end else "leave a gap between them"
            pair = f"`{printable(name)}` and `{printable(next_name)}`"
            raise UnreadableError(f"is damaged: tensors {pair} {how}")
    num_tensor_bytes = in_order[-1][1].end if in_order else 0
    if num_tensor_bytes > num_data_bytes:
        raise UnreadableError(
            f"is truncated: its tensors need {num_tensor_bytes:,} bytes after the header, "
            f"{num_data_bytes:,} are there"
        )
    if num_tensor_bytes < num_data_bytes:
        num_spare_bytes = num_data_bytes - num_tensor_bytes
        raise UnreadableError(f"is damaged: {num_spare_bytes:,} bytes follow its tensors")
