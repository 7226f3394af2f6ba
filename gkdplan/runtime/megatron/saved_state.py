"""The state of training in files, by parameter: what one layout wrote any other reads.

Each rank writes pieces of its shares of the parameters, flat, and says in the file's metadata what
they are of the model's whole tensors (hf_layout.py). A reader joins the shares that lie under its
own, whatever ranks had them.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gkdplan.runtime.megatron.hf_layout import Slice

_PIECES = "pieces"


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank of a layout holds of the parameter `name`: `slices` of whole tensors, joined
    along their common dim to `shape`."""

    name: str
    shape: tuple[int, ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """The elements from `start` to `stop` of a share, flat."""

    share: Share
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Lying:
    """A piece in a file, with the fields that were saved of it."""

    piece: Piece
    file: safe_open
    fields: tuple[str, ...]

    def read(self, field: str) -> Tensor:
        return self.file.get_tensor(f"{field}.{self.piece.share.name}")


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Where a slice lies in a share: from `offset` on along the slice's dim."""

    slice: Slice
    share: Share
    offset: int


def write_state(path: Path, tensors: Mapping[str, Tensor], pieces: Sequence[Piece]) -> None:
    """`tensors` are named FIELD.NAME where they are a piece of the parameter NAME, of which there
    is one in `pieces`; others have names of their own."""
    save_file(dict(tensors), path, metadata={_PIECES: json.dumps([asdict(p) for p in pieces])})


class SavedState(contextlib.AbstractContextManager["SavedState"]):
    """Files of `write_state`, open while entered."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._stack = contextlib.ExitStack()
        opened = [
            self._stack.enter_context(safe_open(file, framework="pt", device="cpu"))
            for file in files
        ]
        self._lying: dict[str, safe_open] = {}
        self._places: dict[Share, dict[int, _Lying]] = {}
        self._stretches: dict[str, list[_Stretch]] = {}
        for file in opened:
            names = list(file.keys())
            self._lying |= dict.fromkeys(names, file)
            fields: dict[str, list[str]] = {}
            for field, _, name in (name.partition(".") for name in names):
                fields.setdefault(name, []).append(field)
            for record in json.loads(file.metadata()[_PIECES]):
                piece = _piece(record)
                self._know(_Lying(piece, file, tuple(fields[piece.share.name])))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tensors(self, *prefixes: str) -> dict[str, Tensor]:
        """Those whose names begin so, which are alike in all files or of one file alone."""
        names = [name for name in self._lying if name.startswith(prefixes)]
        return {name: self._lying[name].get_tensor(name) for name in names}

    def fields_of(self, piece: Piece) -> dict[str, Tensor]:
        """What was saved of a piece of this reader's, by field, flat; of counters any rank's."""
        same = self._places.get(piece.share, {}).get(piece.start)
        if same is not None and same.piece == piece:
            return {field: same.read(field) for field in same.fields}
        stretch, *_ = self._under(piece.share.slices[0])
        lying, *_ = self._places[stretch.share].values()
        found = {}
        for field in lying.fields:
            value = lying.read(field)
            if value.dim():
                value = self._share(field, piece.share).flatten()[piece.start : piece.stop].clone()
            found[field] = value
        return found

    def _know(self, lying: _Lying) -> None:
        """Shares that several ranks hold alike are one."""
        share = lying.piece.share
        places = self._places.setdefault(share, {})
        if not places:
            offset = 0
            for part in share.slices:
                stretch = _Stretch(part, share, offset)
                self._stretches.setdefault(part.tensor, []).append(stretch)
                offset += part.stop - part.start
        places[lying.piece.start] = lying

    def _share(self, field: str, wanted: Share) -> Tensor:
        """A share of this reader's, put together from saved ones; rows that no tensor reaches are
        padding, and zero."""
        read: dict[Share, Tensor] = {}
        result = torch.zeros(wanted.shape)
        offset = 0
        for part in wanted.slices:
            for stretch in self._under(part):
                if stretch.share not in read:
                    read[stretch.share] = self._whole(field, stretch.share)
                start = max(part.start, stretch.slice.start)
                length = min(part.stop, stretch.slice.stop) - start
                of_saved = stretch.offset + start - stretch.slice.start
                result.narrow(part.dim, offset + start - part.start, length).copy_(
                    read[stretch.share].narrow(part.dim, of_saved, length)
                )
            offset += part.stop - part.start
        return result

    def _under(self, part: Slice) -> list[_Stretch]:
        """The saved stretches that a slice overlaps."""
        return [
            stretch
            for stretch in self._stretches[part.tensor]
            if stretch.slice.start < part.stop and part.start < stretch.slice.stop
        ]

    def _whole(self, field: str, share: Share) -> Tensor:
        """A saved share, from the ranks that each updated a piece of it."""
        places = sorted(self._places[share].items())
        flat = torch.cat([lying.read(field) for _, lying in places])
        assert len(flat) == torch.Size(share.shape).numel(), f"{share.name} is not whole"
        return flat.view(share.shape)


def _piece(record: dict[str, object]) -> Piece:
    share = record["share"]
    assert isinstance(share, dict)
    slices = tuple(Slice(**part) for part in share["slices"])
    start, stop = record["start"], record["stop"]
    assert isinstance(start, int)
    assert isinstance(stop, int)
    return Piece(Share(share["name"], tuple(share["shape"]), slices), start, stop)
