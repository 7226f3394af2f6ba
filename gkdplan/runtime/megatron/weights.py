"""Weights between Hugging Face safetensors and a Megatron model, one parameter at a time."""

import math
import re
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor
from torch.nn import Parameter

from gkdplan.runplan.model import ModelPlan
from gkdplan.runtime.megatron.checkpoint_files import Checkpoint
from gkdplan.runtime.megatron.hf_layout import Slice, TensorShard, tensor_shapes
from gkdplan.runtime.megatron.lora import is_adapter
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import first_layer, num_model_layers
from gkdplan.runtime.megatron.student_files import write_student

INIT_STD = 0.02
_LAYER = re.compile(r"^(decoder\.layers\.)(\d+)")


@torch.no_grad()
def load_weights(chunks: Sequence[GPTModel], directory: Path, plan: ModelPlan, mesh: Mesh) -> None:
    """Fill every parameter but adapters' from the safetensors of `directory`; each rank reads only
    its share.

    With `plan.keep_layers`, layer i is the checkpoint's layer `keep_layers[i]`. Vocabulary rows
    past the checkpoint's are zero. Raises UserError (GK521 to GK524) before any parameter is
    touched, when a tensor is missing, unexpected, of another shape, or a file is unreadable.
    """
    num_layers = num_model_layers(plan)
    sources = plan.keep_layers or tuple(range(num_layers))
    with Checkpoint(directory) as checkpoint:
        checkpoint.expect(tensor_shapes(plan.shape, num_layers), sources)
        _fill(chunks, plan, mesh, checkpoint.read)


@torch.no_grad()
def draw_weights(chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh, seed: int) -> None:
    """Fill every parameter but adapters' at random, the same weights whatever the layout.

    Matrices are normal with std 0.02, the two that write to the residual stream with
    0.02 / sqrt(2 * layers) as Megatron scales them; norms are one and biases zero. Each tensor of
    the checkpoint that the model would save is drawn whole from (seed, its name) and then cut.
    """
    num_layers = num_model_layers(plan)
    shapes = tensor_shapes(plan.shape, num_layers)

    @lru_cache(maxsize=3)
    def draw(name: str) -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shapes[name])
        if name.endswith(".bias"):
            return torch.zeros(shapes[name])
        writes_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        std = INIT_STD / math.sqrt(2 * num_layers) if writes_residual else INIT_STD
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        return torch.randn(shapes[name], generator=generator) * std

    def read(piece: Slice) -> Tensor:
        tensor, stretch = draw(piece.tensor), slice(piece.start, piece.stop)
        return tensor[stretch] if piece.dim == 0 else tensor[:, stretch]

    _fill(chunks, plan, mesh, read)


def full_tensors(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Tensor]]:
    """The model's weights under their Hugging Face names, gathered over the tensor axis.

    Collective: every rank of a tensor group iterates to the end, and each gets every tensor, in
    `plan.dtype` on the mesh's device, one Megatron parameter's worth at a time; padding rows of
    the vocabulary are cut. Layers are numbered as in the model.
    """
    shards = [_shard_of(plan, rank, mesh.tensor_size) for rank in range(mesh.tensor_size)]
    for name, parameter in _named_parameters(chunks, plan, mesh):
        pieces: dict[str, dict[int, Tensor]] = defaultdict(dict)
        for shard, values in zip(shards, _gather(parameter, mesh), strict=True):
            layout = shard.slices(name)
            lengths = [piece.stop - piece.start for piece in layout]
            for piece, value in zip(layout, values.split(lengths, layout[0].dim), strict=True):
                pieces[piece.tensor][piece.start] = value
        for tensor, parts in pieces.items():
            full = torch.cat([parts[start] for start in sorted(parts)], layout[0].dim)
            in_vocabulary = tensor in ("model.embed_tokens.weight", "lm_head.weight")
            yield tensor, full[: plan.shape.vocab_size] if in_vocabulary else full


def save_student(
    chunks: Sequence[GPTModel],
    plan: ModelPlan,
    mesh: Mesh,
    source_dir: Path,
    out_dir: Path,
    *,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Write `out_dir` as a Hugging Face directory that transformers loads; every rank takes part.

    Rank 0 writes safetensors of at most `shard_bytes` (with an index where there are several),
    the source's config.json with the model's depth and dtype, and the source's tokenizer files.
    The directory appears whole: it is written beside `out_dir` and renamed.
    """
    if mesh.data_rank == 0:
        tensors = full_tensors(chunks, plan, mesh)
        if mesh.rank == 0:
            write_student(tensors, plan, num_model_layers(plan), source_dir, out_dir, shard_bytes)
        else:
            deque(tensors, maxlen=0)
    torch.distributed.barrier()


def _fill(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh, read: Callable[[Slice], Tensor]
) -> None:
    shard = _shard_of(plan, mesh.tensor_rank, mesh.tensor_size)
    for name, parameter in _named_parameters(chunks, plan, mesh):
        if is_adapter(name):
            continue
        layout = shard.slices(name)
        values = torch.cat([read(piece) for piece in layout], layout[0].dim)
        if layout[0].tensor in ("model.embed_tokens.weight", "lm_head.weight"):
            parameter[: len(values)].copy_(values)
            parameter[len(values) :].zero_()
        else:
            assert values.shape == parameter.shape, name
            parameter.copy_(values)


def _named_parameters(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Parameter]]:
    """The parameters of this rank's chunks, layers numbered as in the model."""
    for index, chunk in enumerate(chunks):
        first = first_layer(plan, mesh.pipeline_rank, index)
        for name, parameter in chunk.named_parameters():
            yield _in_the_model(name, first), parameter


def _in_the_model(name: str, first: int) -> str:
    """The parameter's name with the model's number of its layer, in place of the chunk's."""
    return _LAYER.sub(lambda layer: f"{layer[1]}{first + int(layer[2])}", name)


def _shard_of(plan: ModelPlan, rank: int, size: int) -> TensorShard:
    return TensorShard(plan.shape, plan.padded_vocab_size, rank, size)


def _gather(parameter: Parameter, mesh: Mesh) -> list[Tensor]:
    """The shards of all tensor ranks, in order; a replicated parameter is taken as it is."""
    value = parameter.detach()
    if not getattr(parameter, "tensor_model_parallel", False):
        return [value] * mesh.tensor_size
    shards = [torch.empty_like(value) for _ in range(mesh.tensor_size)]
    torch.distributed.all_gather(shards, value.contiguous(), group=mesh.tensor_group)
    return shards
