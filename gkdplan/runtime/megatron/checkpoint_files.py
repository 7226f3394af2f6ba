"""The safetensors files of a Hugging Face directory, read in slices."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.families.packed import (
    PackedPlace,
    fits,
    is_transposed,
    packed_place,
    packed_tensors,
)
from gkdplan.runtime.megatron.hf_layout import Slice
from gkdplan.shape import ModelShape
from gkdplan.vision import canonical_name

_LAYER_TENSOR = re.compile(r"model\.layers\.(\d+)\.(.+)")
_DERIVED = ("rotary_emb.inv_freq",)


class Checkpoint(contextlib.AbstractContextManager["Checkpoint"]):
    """A directory with model.safetensors, or with several files and an index; open while entered.

    Of a model that sees tensors go by the names of `vision.canonical_name`; experts that the files
    hold packed are read one by one.

    Raises UserError GK521 when there is no such file or one of them cannot be read.
    """

    def __init__(self, directory: Path, shape: ModelShape | None = None) -> None:
        self._directory = directory
        self._vision = None if shape is None else shape.vision
        self._packed = {} if shape is None else packed_tensors(shape)
        self._sources: tuple[int, ...] = ()
        self._files: dict[str, tuple[safe_open, str]] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Checkpoint":
        for name in self._file_names():
            try:
                file = self._stack.enter_context(
                    safe_open(self._directory / name, framework="pt", device="cpu")
                )
            except (OSError, SafetensorError) as reason:
                raise UserError(
                    error(
                        "GK521",
                        f"`{self._directory / name}` cannot be read as safetensors",
                        notes=(str(reason),),
                        help=("fetch the file again: it may be incomplete",),
                    )
                ) from reason
            names = file.keys()
            self._files |= {canonical_name(self._vision, name): (file, name) for name in names}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def expect(self, shapes: Mapping[str, tuple[int, ...]], sources: Sequence[int]) -> None:
        """Check that the files hold exactly `shapes`, whose layer i is their layer `sources[i]`.

        Layers that are not among `sources` are left alone. Raises UserError with one finding a
        tensor: GK522 missing, GK523 another shape, GK524 not part of the architecture.
        """
        self._sources = tuple(sources)
        wanted = {self._source_name(name): size for name, size in shapes.items()}
        findings = [
            finding for name, size in wanted.items() if (finding := self._compare(name, size))
        ]
        findings += [
            error(
                "GK524",
                f"the checkpoint holds `{name}`, which the model has no place for",
                notes=(f"in {self._directory}",),
                help=("name a checkpoint of the architecture in config.json, adapters merged",),
            )
            for name in self._files
            if name not in wanted and not self._may_be_left(name, shapes)
        ]
        if findings:
            raise UserError(*findings)

    def read(self, piece: Slice) -> Tensor:
        """A slice of a tensor, by the model's layer numbers, cut where the tensor ends."""
        place = packed_place(piece.tensor) if self._packed else None
        if place is not None:
            return self._read_packed(piece, place)
        name = self._source_name(piece.tensor)
        tensor = self._slice(name)
        stop = min(piece.stop, tensor.get_shape()[piece.dim])
        start = min(piece.start, stop)
        return tensor[start:stop] if piece.dim == 0 else tensor[:, start:stop]

    @property
    def holds_transposed_experts(self) -> bool:
        """Whether it packs experts the other way round than transformers 5 does."""
        return any(
            is_transposed(self._slice(name).get_shape(), size)
            for name, size in self._packed.items()
            if name in self._files
        )

    def _read_packed(self, piece: Slice, place: PackedPlace) -> Tensor:
        """A slice of an expert's projection."""
        tensor = self._slice(self._source_name(place.tensor))
        size = self._packed[place.tensor]
        num_outputs = size[1] // place.num_parts
        first = place.part * num_outputs
        rows, columns = slice(first, first + num_outputs), slice(None)
        if piece.dim == 0:
            rows = slice(first + piece.start, first + piece.stop)
        else:
            columns = slice(piece.start, piece.stop)
        expert = slice(place.expert, place.expert + 1)
        if is_transposed(tensor.get_shape(), size):
            return tensor[expert, columns, rows][0].t()
        return tensor[expert, rows, columns][0]

    def _file_names(self) -> list[str]:
        index = self._directory / "model.safetensors.index.json"
        if not index.exists():
            return ["model.safetensors"]
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))

    def _slice(self, name: str) -> Any:
        file, name_in_file = self._files[name]
        return file.get_slice(name_in_file)

    def _source_name(self, name: str) -> str:
        layer = _LAYER_TENSOR.fullmatch(name)
        return f"model.layers.{self._sources[int(layer[1])]}.{layer[2]}" if layer else name

    def _compare(self, name: str, size: tuple[int, ...]) -> Diagnostic | None:
        if name not in self._files:
            return error(
                "GK522",
                f"the checkpoint lacks `{name}`",
                notes=(f"looked for in {self._directory}",),
                help=("fetch the missing files again, or name a complete checkpoint",),
            )
        held = tuple(self._slice(name).get_shape())
        if fits(name, held, size):
            return None
        return error(
            "GK523",
            f"`{name}` has shape {list(held)} in the checkpoint, the plan says {list(size)}",
            notes=(f"in {self._directory}",),
            help=("put the config.json of these weights beside them and compile the plan again",),
        )

    def _may_be_left(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        layer = _LAYER_TENSOR.fullmatch(name)
        another_layer = layer is not None and int(layer[1]) not in self._sources
        tied_head = name == "lm_head.weight" and name not in shapes
        return another_layer or tied_head or name.endswith(_DERIVED)
