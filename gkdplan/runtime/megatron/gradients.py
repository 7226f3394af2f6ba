"""The gradients of a step, whole and under the names of a Hugging Face checkpoint."""

from collections.abc import Iterator

from torch import Tensor

from gkdplan.runplan.model import ModelPlan
from gkdplan.runtime.megatron.adapters import whole_adapters
from gkdplan.runtime.megatron.full_tensors import full_eyes, full_tensors
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.trainer import Trainer


def full_gradients(trainer: Trainer, plan: ModelPlan, mesh: Mesh) -> Iterator[tuple[str, Tensor]]:
    """As `full_tensors`, or of a student with adapters their factors and its eyes; of what learns
    the gradients that `forward_backward` has left: float32, summed over micro-batches and data
    ranks, before clipping.

    Collective. While it runs the parameters' own values are set aside.
    """
    trainer.gather_gradients()
    parameters = [p for chunk in trainer.chunks for p in chunk.parameters() if p.requires_grad]
    values = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.data = parameter.main_grad
        if plan.lora is None:
            yield from full_tensors(trainer.chunks, plan, mesh)
            return
        for name, a, b in whole_adapters(trainer.chunks, plan, mesh):
            yield f"{name}.lora_A", a
            yield f"{name}.lora_B", b
        yield from full_eyes(trainer.chunks, plan, mesh)
    finally:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
