import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gkdplan.facts.safetensors import DTYPE_BITS, Tensor, read_header
from gkdplan.json_file import UnreadableError


def write(path: Path, header: object, num_data_bytes: int) -> str:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(num_data_bytes))
    return str(path)


def row(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_header_that_the_safetensors_library_wrote_is_read(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(3, 2, dtype=torch.bfloat16),
        "b": torch.zeros(5),
        "empty": torch.zeros(0, 4, dtype=torch.int8),
        "scalar": torch.tensor(True),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = read_header(str(tmp_path / "x.safetensors"))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.items()} == {
        "a": ("BF16", (3, 2)),
        "b": ("F32", (5,)),
        "empty": ("I8", (0, 4)),
        "scalar": ("BOOL", ()),
    }
    assert sum(tensor.end - tensor.begin for tensor in header.values()) == 12 + 20 + 0 + 1


def test_every_dtype_of_the_library_is_known(tmp_path: Path) -> None:
    kinds = {kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
    written = 0
    for kind in kinds:
        tensor = torch.empty(4, dtype=kind)
        try:
            save_file({"a": tensor}, tmp_path / "x.safetensors")
        except (KeyError, ValueError, RuntimeError, TypeError):
            continue
        header = read_header(str(tmp_path / "x.safetensors"))
        assert header["a"].num_elements * DTYPE_BITS[header["a"].dtype] == 8 * tensor.nbytes
        written += 1
    assert written >= 11


def test_a_header_is_read_without_the_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"a": row([2], 0, 8)}, 8)
    assert read_header(path) == {"a": Tensor("F32", (2,), 0, 8)}


@pytest.mark.parametrize(
    ("header", "num_data_bytes", "words"),
    [
        ({"a": row([2], 0, 8)}, 7, "is truncated: its tensors need 8 bytes after the header, 7"),
        ({"a": row([2], 0, 8)}, 9, "is damaged: 1 bytes follow its tensors"),
        ({"a": row([2], 0, 8), "b": row([1], 4, 8)}, 8, "tensors `a` and `b` overlap"),
        ({"a": row([1], 0, 4), "b": row([1], 8, 12)}, 12, "leave a gap"),
        ({"a": row([1], 4, 8)}, 8, "do not start where its header ends"),
        ({"a": row([3], 0, 8)}, 8, r"tensor `a` \(F32 \[3\]\) does not fill its 8 bytes"),
        ({"a": row([2], 8, 0)}, 8, "does not fill its -8 bytes"),
        ({"a": row([2], 0, 8, "Q4")}, 8, "tensor `a` has the dtype 'Q4'"),
        ({"a": row([-2], 0, 8)}, 8, "tensor `a` has the shape a list of 1 item"),
        ({"a": row([True], 0, 4)}, 4, "tensor `a` has the shape"),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8, "has no two data offsets"),
        ({"a": 1}, 0, "tensor `a` has the dtype null"),
        ([], 0, "its header is not a JSON object"),
    ],
)
def test_a_header_that_the_format_forbids_is_refused(
    tmp_path: Path, header: object, num_data_bytes: int, words: str
) -> None:
    path = write(tmp_path / "x.safetensors", header, num_data_bytes)
    with pytest.raises(UnreadableError, match=words):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is truncated: 0 bytes cannot hold a header"),
        (b"\x10\0\0\0\0\0\0\0{}", "is truncated: its header ends at byte 24, the file at 10"),
        (b"\xff" * 8, "a header of 18,446,744,073,709,551,615 bytes"),
        (b"\x02\0\0\0\0\0\0\0{]", "is not JSON"),
    ],
)
def test_a_file_without_a_whole_header_is_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=words):
        read_header(str(path))


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="is not there"):
        read_header(str(tmp_path / "none"))
    with pytest.raises(UnreadableError, match="is not a file"):
        read_header(str(tmp_path))
