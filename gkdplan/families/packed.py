"""Experts that the files of a model hold in two tensors of a layer, one expert behind the other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gkdplan.families.tensors import Sizes, expected_tensors
from gkdplan.shape import ModelShape
from gkdplan.vision import Qwen3Vision

_PACKED = (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")
_EXPERT = re.compile(r"(model\.layers\.\d+\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


@dataclass(frozen=True, slots=True)
class PackedPlace:
    """Where an expert's projection lies: in the slice `expert` of a tensor, [experts, outputs of
    `num_parts`, inputs], at its place `part` among the outputs. Files of transformers 4 hold the
    slices transposed."""

    tensor: str
    expert: int
    part: int
    num_parts: int


def packs_experts(shape: ModelShape) -> bool:
    """Of Qwen3-VL (transformers/conversion_mapping.py, "qwen3_vl_moe")."""
    return shape.moe is not None and isinstance(shape.vision, Qwen3Vision)


def packed_place(name: str) -> PackedPlace | None:
    """Of an expert's projection by its name in this project; None of any other tensor."""
    found = _EXPERT.fullmatch(name)
    if found is None:
        return None
    prefix, expert, projection = found.groups()
    if projection == "down":
        return PackedPlace(f"{prefix}.down_proj", int(expert), 0, 1)
    return PackedPlace(f"{prefix}.gate_up_proj", int(expert), int(projection == "up"), 2)


def tensors_in_files(shape: ModelShape) -> Sizes:
    """Names and shapes as `expected_tensors`, but experts as the files hold them."""
    tensors = expected_tensors(shape)
    if not packs_experts(shape):
        return tensors
    assert shape.moe is not None
    in_files: Sizes = {}
    for name, size in tensors.items():
        place = packed_place(name)
        if place is None:
            in_files[name] = size
            continue
        outputs, inputs = size
        in_files[place.tensor] = (shape.moe.num_experts, place.num_parts * outputs, inputs)
    return in_files


def largest_packed_elements(shape: ModelShape) -> int:
    """Of the gates and ups of a layer's experts; 0 where experts are not packed."""
    if shape.moe is None or not packs_experts(shape):
        return 0
    return shape.moe.num_experts * 2 * shape.moe.expert_ffn_hidden_size * shape.hidden_size


def packed_tensors(shape: ModelShape) -> Sizes:
    """Those of them that hold experts."""
    return {n: size for n, size in tensors_in_files(shape).items() if n.endswith(_PACKED)}


def is_transposed(found: Sequence[int], size: tuple[int, ...]) -> bool:
    """Whether a file holds the slices of a packed tensor of this size the other way round; square
    ones it does not, as transformers 5 takes them."""
    return tuple(found) != size and (*found[:1], *reversed(found[1:])) == size


def fits(name: str, found: Sequence[int], size: tuple[int, ...]) -> bool:
    """Whether a file may hold the tensor of this size so."""
    return tuple(found) == size or (name.endswith(_PACKED) and is_transposed(found, size))
