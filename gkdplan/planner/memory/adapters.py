"""Parameter tensors of low-rank adapters on a rank, as runtime/megatron/lora makes them."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, groupby

from gkdplan.planner.memory.experts import ExpertShare
from gkdplan.planner.memory.parameters import VISION, Parameter
from gkdplan.projections import parts_of
from gkdplan.runplan.models import LoraPlan
from gkdplan.shape import ModelShape

PROJECTIONS_OF = {
    "linear_proj": ("o_proj",),
    "linear_qkv": ("qkv_proj", "q_proj", "k_proj", "v_proj"),
    "linear_q_proj": ("q_proj",),
    "linear_q_down_proj": ("q_a_proj",),
    "linear_q_up_proj": ("q_b_proj",),
    "linear_kv_down_proj": ("kv_a_proj_with_mqa",),
    "linear_kv_up_proj": ("kv_b_proj",),
    "linear_fc1": ("gate_up_proj", "gate_proj", "up_proj"),
    "linear_fc2": ("down_proj",),
}
"""Megatron's linear layers and the checkpoint's projections that each holds."""
ROW_PARALLEL = ("linear_proj", "linear_fc2")
"""Those whose input is cut over the tensor axis; of the others it is the output."""
WHOLE = ("linear_q_down_proj", "linear_kv_down_proj")
"""But of those that every tensor rank has whole neither is."""


def with_adapters(
    parameters: tuple[Parameter, ...],
    shape: ModelShape,
    lora: LoraPlan,
    tensor: int,
    experts: ExpertShare | None,
) -> tuple[Parameter, ...]:
    """The base's parameters, frozen, with each linear layer's adapter after it: the A of all its
    targets in one, and a B of each part of them. A shared expert has none, nor a tower, whatever
    its linear layers are called, which learns or not as it is."""
    together: list[Parameter] = []
    for module, own in groupby(parameters, key=lambda parameter: parameter.name.rpartition(".")[0]):
        if module.startswith(VISION):
            together += own
            continue
        base = [replace(parameter, is_trained=False) for parameter in own]
        together += base
        if ".shared_experts" in module:
            continue
        is_expert = experts is not None and ".mlp.experts." in module
        degree = experts.expert_tensor if experts is not None and is_expert else tensor
        adapter = _adapter(module, shape if is_expert else shape.without_experts, lora, degree)
        together += (replace(one, is_divided=base[0].is_divided) for one in adapter)
    return tuple(together)


def adapted(lora: LoraPlan, layer: str) -> tuple[str, ...]:
    """The targets that one of Megatron's layers holds."""
    return tuple(name for name in PROJECTIONS_OF.get(layer, ()) if name in lora.targets)


def _adapter(module: str, shape: ModelShape, lora: LoraPlan, tensor: int) -> Iterator[Parameter]:
    layer = module.rpartition(".")[2]
    targets = adapted(lora, layer)
    if not targets:
        return
    is_row = layer in ROW_PARALLEL
    inputs = shape.projection_size(targets[0])[1] // (tensor if is_row else 1)
    yield Parameter(f"{module}.lora.a", len(targets) * lora.rank * inputs)
    for part in chain.from_iterable(map(parts_of, targets)):
        outputs = shape.projection_size(part)[0] // (1 if is_row or layer in WHOLE else tensor)
        yield Parameter(f"{module}.lora.b.{part}", lora.rank * outputs)
