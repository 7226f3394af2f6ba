"""What the loss needs beside the student and a micro-batch."""

from dataclasses import dataclass
from typing import Any

from torch.distributed import ProcessGroup

from gkdplan.runplan.model import Objective


@dataclass(frozen=True, slots=True)
class Distillation:
    """The teacher (a Megatron GPTModel) and the objective, over the ranks of a tensor group.

    `vocab_size` is the true vocabulary that the loss normalises over.
    """

    teacher: Any
    objective: Objective
    vocab_size: int
    tensor_group: ProcessGroup
