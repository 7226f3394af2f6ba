"""Weights between Hugging Face safetensors and a Megatron model, one parameter at a time."""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from gkdplan.families.packed import tensors_in_files
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.megatron.adapters import merged_tensors
from gkdplan.runtime.megatron.checkpoint_files import Checkpoint
from gkdplan.runtime.megatron.drawn_weights import drawn_weights
from gkdplan.runtime.megatron.hf_layout import Slice
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.parameters import base_parameters, sharing_group, slices_of_ranks
from gkdplan.runtime.megatron.student_files import FILE_BYTES, write_student


@torch.no_grad()
def load_weights(chunks: Sequence[GPTModel], directory: Path, plan: ModelPlan, mesh: Mesh) -> None:
    """Fill every parameter but adapters' of this rank's chunks from the safetensors of `directory`;
    each rank reads only its share, of the layers of its stage and of the experts that it holds.

    With `plan.keep_layers`, layer i is the checkpoint's layer `keep_layers[i]`. Vocabulary rows
    past the checkpoint's are zero. Raises UserError (GK521 to GK524) before any parameter is
    touched, when a tensor is missing, unexpected, of another shape, or a file is unreadable.
    """
    shape = plan.shape
    with Checkpoint(directory, plan.shape) as checkpoint:
        checkpoint.expect(
            tensors_in_files(shape), plan.keep_layers or tuple(range(shape.num_layers))
        )
        _fill(chunks, plan, mesh, checkpoint.read)


def load_output_head(head: Tensor, directory: Path, plan: ModelPlan, mesh: Mesh) -> None:
    """Fill `head` [V/t, H] with the rows of this tensor rank of `mesh`, from the safetensors of
    `directory`, which `load_weights` has found good. Rows past the checkpoint's are zero."""
    (piece,) = slices_of_ranks(plan, mesh, "output_layer.weight")[mesh.tensor_rank]
    with Checkpoint(directory, plan.shape) as checkpoint:
        _fill_rows(head, checkpoint.read(piece))


def draw_output_head(head: Tensor, plan: ModelPlan, mesh: Mesh, seed: int) -> None:
    """The same rows of the weights that `draw_weights` draws."""
    (piece,) = slices_of_ranks(plan, mesh, "output_layer.weight")[mesh.tensor_rank]
    _fill_rows(head, drawn_weights(plan.shape, seed)(piece))


@torch.no_grad()
def draw_weights(chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh, seed: int) -> None:
    """Fill every parameter but adapters' at random, as `drawn_weights` says: the model's weights
    are the same whatever the layout."""
    _fill(chunks, plan, mesh, drawn_weights(plan.shape, seed))


def save_student(
    chunks: Sequence[GPTModel],
    plan: ModelPlan,
    mesh: Mesh,
    source_dir: Path,
    out_dir: Path,
    *,
    shard_bytes: int = FILE_BYTES,
) -> None:
    """Write `out_dir` as a Hugging Face directory that transformers loads; every rank takes part.

    Rank 0 writes safetensors of at most `shard_bytes` (with an index where there are several),
    the source's config.json with the model's depth and dtype, and the source's tokenizer files: the
    same bytes from any layout. The directory appears whole: it is written beside `out_dir` and
    renamed. Adapters are merged into the weights that they adapt.
    """
    tensors = merged_tensors(chunks, plan, mesh)
    if mesh.rank == 0:
        write_student(tensors, plan, source_dir, out_dir, shard_bytes)
    else:
        deque(tensors, maxlen=0)
    torch.distributed.barrier()


def _fill(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh, read: Callable[[Slice], Tensor]
) -> None:
    for name, parameter in base_parameters(chunks, plan, mesh):
        layout = slices_of_ranks(plan, mesh, name)[sharing_group(mesh, name).rank()]
        values = torch.cat([read(piece) for piece in layout], layout[0].dim)
        if name in ("embedding.word_embeddings.weight", "output_layer.weight"):
            _fill_rows(parameter, values)
        else:
            assert values.shape == parameter.shape, name
            parameter.copy_(values)


def _fill_rows(matrix: Tensor, values: Tensor) -> None:
    matrix[: len(values)].copy_(values)
    matrix[len(values) :].zero_()
