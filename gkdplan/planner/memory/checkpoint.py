"""Bytes that saving needs on the device, which on a CPU is where the files' tensors wait too."""

from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.optimizer import TrainingState
from gkdplan.planner.memory.parameters import largest_elements, num_elements
from gkdplan.vocab import Dtype

FILE_BYTES = 5 * 10**9
"""Of one safetensors file at most: as in runtime/megatron/weights.py."""


def student_files_bytes(student: RankModel, backend: str) -> int:
    """Those of a stage's first rank, which writes the stage's layers: whole tensors, padding
    included, one parameter at a time gathered over the tensor axis and joined. Where the device is
    the host they wait there until a file is full.
    """
    width = student.dtype.num_bytes
    whole = student.whole_chunks
    num_copies = 1 if student.tensor == 1 else 2
    passing = num_copies * max(map(largest_elements, whole)) * width
    all_bytes = sum(map(num_elements, whole)) * width
    waiting = min(all_bytes, FILE_BYTES) if backend == "gloo" else 0
    return waiting + passing


def state_file_bytes(student: RankModel, state: TrainingState, *, distributed: bool) -> int:
    """Main weights that are views of the parameters are copied, as a file needs its own; moments,
    and main weights that are copies already, are written from where they are."""
    are_views = student.dtype is Dtype.FP32 and distributed
    return state.owned_elements * Dtype.FP32.num_bytes if are_views else 0
