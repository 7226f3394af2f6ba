"""How the tensors of a checkpoint differ from those that its shape asks for."""

from collections.abc import Mapping

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.facts.safetensors import Tensor
from gkdplan.families.packed import fits, tensors_in_files
from gkdplan.shape import ModelShape
from gkdplan.text import listed
from gkdplan.vision import canonical_name

WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16")


def compare_tensors(
    tensors: Mapping[str, Tensor], shape: ModelShape, name: str
) -> list[Diagnostic]:
    """GK107 for tensors that are missing, of another shape or dtype, or without a place.

    A second copy of a tied head and rotary frequencies, which the config determines, may be there.
    """
    tensors = {canonical_name(shape.vision, name): row for name, row in tensors.items()}
    expected = tensors_in_files(shape)
    missing = [tensor for tensor in expected if tensor not in tensors]
    other_shape = [
        f"{tensor} {list(tensors[tensor].shape)}, not {list(size)}"
        for tensor, size in expected.items()
        if tensor in tensors and not fits(tensor, tensors[tensor].shape, size)
    ]
    other_dtype = [
        f"{tensor} {row.dtype}"
        for tensor, row in tensors.items()
        if tensor in expected and row.dtype not in WEIGHT_DTYPES
    ]
    no_place = [tensor for tensor in tensors if tensor not in expected and not _is_spare(tensor)]
    rules = (
        (missing, "lacks tensors that its config.json asks for"),
        (other_shape, "holds tensors of another shape than its config.json says"),
        (other_dtype, f"holds weights of another dtype than {', '.join(WEIGHT_DTYPES)}"),
        (no_place, "holds tensors that its config.json has no place for"),
    )
    return [
        error("GK107", f"{name} {harm}: {listed(found)}", "model") for found, harm in rules if found
    ]


def _is_spare(tensor: str) -> bool:
    return tensor == "lm_head.weight" or tensor.endswith(".rotary_emb.inv_freq")
