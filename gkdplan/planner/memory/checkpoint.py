"""Bytes of a checkpoint on the disk, and those that saving needs on the device, which on a CPU is
where the files' tensors wait too."""

from math import prod

from gkdplan.families.packed import largest_packed_elements, packs_experts
from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.experts import ExpertShare
from gkdplan.planner.memory.fused import fused_of
from gkdplan.planner.memory.model import RankModel, chunks_of_stage, rank_model
from gkdplan.planner.memory.optimizer import TrainingState
from gkdplan.planner.memory.parameters import largest_elements, num_elements
from gkdplan.planner.memory.stage import whole_model
from gkdplan.runplan.models import ModelPlan
from gkdplan.vocab import Dtype, Tier

FILE_BYTES = 5 * 10**9
"""Of one safetensors file at most: as in runtime/megatron/student_files.py."""


STATE_COPIES = 3
"""Of what is trained, float32: main weights and Adam's two moments."""


def checkpoint_bytes(draft: Draft) -> int:
    """Of all tensors of one checkpoint: the student's, its adapters' apart, the state of every rank
    and the average that a teacher is. Names, random states, config and tokenizer come on top."""
    student = draft.models.student
    return (
        student_bytes(student) + adapter_bytes(student) + state_bytes(draft, saved_elements(draft))
    )


def student_bytes(student: ModelPlan) -> int:
    """Of the student's tensors in its files."""
    return student.num_parameters * student.dtype.num_bytes


def adapter_bytes(student: ModelPlan) -> int:
    """Of the adapters in their file, and of the tower and the projector beside them that learn; the
    gates and ups of experts that files hold packed have one B with zeros beside theirs."""
    lora, shape = student.lora, student.shape
    if lora is None:
        return 0
    eyes = {} if shape.vision is None else shape.vision.tensors()
    of_eyes = sum(prod(size) for n, size in eyes.items() if n.startswith(student.learning_eyes))
    zeros = 0
    if shape.moe is not None and packs_experts(shape) and lora.target_of("gate_proj"):
        of_expert = 2 * lora.rank * shape.moe.expert_ffn_hidden_size
        zeros = (shape.num_layers - shape.num_dense_layers) * shape.moe.num_experts * of_expert
    return (lora.num_parameters + of_eyes + zeros) * student.dtype.num_bytes


def state_bytes(draft: Draft, num_elements: int) -> int:
    """Of the state of so many elements that are trained, in its files."""
    num_copies = STATE_COPIES + (draft.models.teacher.ema_decay is not None)
    return num_copies * Dtype.FP32.num_bytes * num_elements


def saved_elements(draft: Draft) -> int:
    """Elements whose state the ranks write, summed over all of them: a distributed optimizer cuts
    them over the ranks that hold the same parameters, and without one each of these writes all."""
    student, degrees = draft.models.student, draft.layout.student
    num_shared = num_divided = 0
    for stage in range(degrees.pipeline):
        for chunk in rank_model(student, degrees, fused_of(draft.layout), stage).trained_chunks:
            num_shared += sum(p.num_elements for p in chunk if not p.is_divided)
            num_divided += sum(p.num_elements for p in chunk if p.is_divided)
    is_cut = draft.optimizer.distributed
    shared_writers = degrees.tensor * (1 if is_cut else degrees.data * degrees.context)
    divided_writers = (
        degrees.expert * degrees.expert_tensor * (1 if is_cut else degrees.expert_data)
    )
    return shared_writers * num_shared + divided_writers * num_divided


def student_files_bytes(draft: Draft, *, writes: bool) -> int:
    """Whole tensors of the model, padding included, that pass through every rank, one parameter at
    a time: gathered from the ranks that share it, where there are such, and joined; experts that
    files hold packed are then joined on the host. Where the
    device is the host they wait, on the rank that `writes`, until a file is full; if they are
    written beside later steps, as part of the host tier.
    """
    student, degrees = draft.models.student, draft.layout.student
    width = student.dtype.num_bytes
    shape, moe = student.shape, student.shape.moe
    (parameters,) = chunks_of_stage(
        shape,
        student.padded_vocab_size,
        1,
        whole_model(sum(map(sum, student.stage_layers)), () if moe is None else moe.dense_layers),
        None if moe is None else ExpertShare(moe),
    )
    is_shared = max(degrees.tensor, degrees.pipeline, degrees.expert, degrees.expert_tensor) > 1
    num_copies = 2 if is_shared else 1
    passing = num_copies * largest_elements(parameters) * width
    waits = writes and draft.layout.backend == "gloo" and not draft.training.async_save
    waiting = min(num_elements(parameters) * width, FILE_BYTES) if waits else 0
    packed = largest_packed_elements(shape) * width if waits else 0
    return waiting + passing + packed


def state_file_bytes(draft: Draft, student: RankModel, state: TrainingState) -> int:
    """Main weights that are views of the parameters are copied, as a file needs its own; moments,
    and main weights that are copies already, are written from where they are. Beside later steps
    all are written from copies of the host tier, which take a moment each to get there."""
    distributed = draft.optimizer.distributed
    if draft.training.async_save:
        largest = max(map(largest_elements, student.trained_chunks))
        is_host = draft.layout.backend == "gloo"
        return min(largest, state.owned_elements) * Dtype.FP32.num_bytes * is_host
    are_views = student.dtype is Dtype.FP32 and distributed
    return state.owned_elements * Dtype.FP32.num_bytes if are_views else 0


def average_file_bytes(draft: Draft, state: TrainingState) -> int:
    """Of a teacher that is the student's average: where its own float32 weights are the average,
    the pieces that the rank updates are copied, as a file needs its own."""
    teacher = draft.models.teacher
    is_there = teacher.offload is Tier.DEVICE or draft.layout.backend == "gloo"
    is_copied = teacher.ema_decay is not None and teacher.dtype is Dtype.FP32
    if not is_copied or not is_there or draft.training.async_save:
        return 0
    return state.owned_elements * Dtype.FP32.num_bytes
