"""The gradients of a step, whole and under the names of a Hugging Face checkpoint."""

from collections.abc import Iterator

from torch import Tensor

from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.megatron.adapters import whole_adapters
from gkdplan.runtime.megatron.full_tensors import full_eyes, full_tensors
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.trainer import Trainer


def full_gradients(trainer: Trainer, plan: ModelPlan, mesh: Mesh) -> Iterator[tuple[str, Tensor]]:
    """As `full_tensors`, or of a student with adapters their factors and its eyes; the gradients of
    what learns that `forward_backward` has left: float32, summed over micro-batches and data ranks,
    before clipping.

    Collective. While it runs the parameters' own values are set aside.
    """
    trainer.gather_gradients()
    parameters = [p for chunk in trainer.chunks for p in chunk.parameters() if p.requires_grad]
    values = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.data = parameter.main_grad
        if plan.lora is None:
            whole = full_tensors(trainer.chunks, plan, mesh)
            yield from ((name, tensor) for name, tensor in whole if _learns(plan, name))
            return
        for name, a, b in whole_adapters(trainer.chunks, plan, mesh):
            yield f"{name}.lora_A", a
            yield f"{name}.lora_B", b
        eyes = full_eyes(trainer.chunks, plan, mesh)
        yield from ((name, tensor) for name, tensor in eyes if _learns(plan, name))
    finally:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value


def _learns(plan: ModelPlan, name: str) -> bool:
    """Whether the tensor does, as `model.build_chunks` has it."""
    freeze, vision = plan.freeze, plan.shape.vision
    if freeze is None or vision is None:
        return True
    if not name.startswith(vision.prefixes):
        return not freeze.language
    if name.startswith(vision.projector):
        return not freeze.projector
    return not freeze.vision and vision.is_read(name)
