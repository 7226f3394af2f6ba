"""What the loss needs beside the student and a micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributed import ProcessGroup

from gkdplan.runplan.model import Objective


@dataclass(frozen=True, slots=True)
class Distillation:
    """The teacher and the objective, over the ranks of the student's tensor group.

    `teacher` is this rank's chunks of it, Megatron GPTModels; `teacher_head` [V/t, H] its output
    head with the ids of the student's, None where the loss does not multiply by it, and
    `teacher_softcap` what bounds its logits. `vocab_size` is the true vocabulary that the loss
    normalises over.
    """

    teacher: Sequence[Any]
    objective: Objective
    vocab_size: int
    tensor_group: ProcessGroup
    teacher_head: Tensor | None
    teacher_softcap: float | None
