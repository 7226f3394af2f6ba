"""The teacher's output head where the student's loss multiplies by it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gkdplan.runplan.model import RunPlan, is_head_needed
from gkdplan.runtime.megatron.config import TORCH_DTYPES
from gkdplan.runtime.megatron.forward import output_head
from gkdplan.runtime.megatron.mesh import Mesh


def head_of_loss(plan: RunPlan, mesh: Mesh, teacher: Sequence[Any]) -> Tensor | None:
    """The rows [V/t, H] that belong to the ids of the student's tensor rank on `mesh`, None where
    the student does not end or nothing multiplies by them.

    They are the teacher's own Parameter where it ends here and is cut alike, else a tensor beside
    it that `weights.load_output_head` fills.
    """
    if mesh.pipeline_rank != mesh.pipeline_size - 1:
        return None
    if teacher[-1].post_process and plan.layout.teacher.tensor == plan.layout.student.tensor:
        return output_head(teacher[-1])
    if not is_head_needed(plan.objective, plan.data):
        return None
    model = plan.models.teacher
    size = model.padded_vocab_size // mesh.tensor_size, model.shape.hidden_size
    return torch.empty(size, dtype=TORCH_DTYPES[model.dtype], device=mesh.device)
