"""Which projections get adapters, and how many parameters these have."""

from collections.abc import Iterable

from gkdplan.families.tensors import projections_of
from gkdplan.projections import OF_EXPERTS
from gkdplan.runplan.models import LoraPlan
from gkdplan.shape import ModelShape
from gkdplan.spec.models import Lora, Student

ALL_LINEAR = "all-linear"
"""The target that means every projection."""


def decide_lora(student: Student, shape: ModelShape) -> LoraPlan | None:
    """The adapters of a student that is tuned with them, of `shape`'s depth."""
    if student.tuning != "lora":
        return None
    lora = lora_of(student)
    targets = targets_of(lora.targets, shape)
    num_dense = shape.num_dense_layers
    of_dense = num_dense * _features(targets, shape.without_experts)
    features = of_dense + (shape.num_layers - num_dense) * _features(targets, shape)
    return LoraPlan(
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=targets,
        num_parameters=lora.rank * features,
    )


def _features(targets: Iterable[str], shape: ModelShape) -> int:
    """Of inputs and outputs together, in a layer with experts where the model has them."""
    return sum(_num_of(target, shape) * sum(shape.projection_size(target)) for target in targets)


def _num_of(target: str, shape: ModelShape) -> int:
    """Projections of that name in a layer."""
    return 1 if shape.moe is None or target not in OF_EXPERTS else shape.moe.num_experts


def lora_of(student: Student) -> Lora:
    """`[student.lora]`, or its defaults."""
    return student.lora or Lora()


def targets_of(names: Iterable[str], shape: ModelShape) -> tuple[str, ...]:
    """The projections of the shape's family that the names mean, each once, in the order of a
    layer."""
    named = set(names)
    return tuple(name for name in projections_of(shape) if ALL_LINEAR in named or name in named)
