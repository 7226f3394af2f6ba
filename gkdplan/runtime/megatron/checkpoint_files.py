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
from gkdplan.runtime.megatron.hf_layout import Slice
from gkdplan.vision import VisionShape, canonical_name

_LAYER_TENSOR = re.compile(r"model\.layers\.(\d+)\.(.+)")
_DERIVED = ("rotary_emb.inv_freq",)


class Checkpoint(contextlib.AbstractContextManager["Checkpoint"]):
    """A directory with model.safetensors, or with several files and an index; open while entered.

    Of a model with `vision` tensors go by the names of `vision.canonical_name`.

    Raises UserError GK521 when there is no such file or one of them cannot be read.
    """

    def __init__(self, directory: Path, vision: VisionShape | None = None) -> None:
        self._directory = directory
        self._vision = vision
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
        name = self._source_name(piece.tensor)
        tensor = self._slice(name)
        stop = min(piece.stop, tensor.get_shape()[piece.dim])
        start = min(piece.start, stop)
        return tensor[start:stop] if piece.dim == 0 else tensor[:, start:stop]

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
        if held == size:
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
