"""The parameters of a rank's chunks, named and cut as in the whole model."""

import re
from collections.abc import Iterator, Sequence

from megatron.core.models.gpt.gpt_model import GPTModel
from torch.distributed import ProcessGroup
from torch.nn import Parameter

from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.megatron.hf_layout import Slice, TensorShard
from gkdplan.runtime.megatron.lora import is_adapter
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import first_layer

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_EXPERT_OF_A_LIST = re.compile(r"mlp\.experts\.local_experts\.(\d+)\.(linear_fc\d\..+)")
_EXPERT_OF_A_GROUP = re.compile(r"mlp\.experts\.(linear_fc\d\.weight)(\d+)")


def base_parameters(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Parameter]]:
    """Every parameter but adapters', under its name in the model."""
    for name, parameter in named_parameters(chunks, plan, mesh):
        if not is_adapter(name):
            yield name, parameter


def adapter_parameters(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Parameter]]:
    """The adapters' alone, under their names in the model."""
    for name, parameter in named_parameters(chunks, plan, mesh):
        if is_adapter(name):
            yield name, parameter


def named_parameters(
    chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh
) -> Iterator[tuple[str, Parameter]]:
    """Every parameter. Layers and experts carry the model's numbers, whatever stage and rank hold
    them; an expert's weights are `mlp.experts.N.linear_fc1.weight` in whichever of Megatron's
    modules they lie."""
    first_expert = _first_expert(plan, mesh.groups.ep)
    for index, chunk in enumerate(chunks):
        first = first_layer(plan, mesh.pipeline_rank, index)
        for name, parameter in chunk.named_parameters():
            if layer := _LAYER.fullmatch(name):
                part = _with_expert_of_the_model(layer[2], first_expert)
                name = f"decoder.layers.{first + int(layer[1])}.{part}"
            yield name, parameter


def is_of_an_expert(name: str) -> bool:
    """Whether a parameter of this name lies on the expert axes."""
    return ".mlp.experts." in name


def slices_of_ranks(plan: ModelPlan, mesh: Mesh, name: str) -> list[tuple[Slice, ...]]:
    """What the share of each rank of `sharing_group` is in the checkpoint, in order."""
    size = sharing_group(mesh, name).size()
    shards = [TensorShard(plan.shape, plan.padded_vocab_size, rank, size) for rank in range(size)]
    return [shard.slices(name) for shard in shards]


def own_slices(plan: ModelPlan, mesh: Mesh, name: str, parameter: Parameter) -> tuple[Slice, ...]:
    """What this rank's share of a parameter is of whole tensors: those of the checkpoint, or of an
    adapter, which has none there, its factor as one rank would hold it."""
    group = sharing_group(mesh, name)
    if not is_adapter(name):
        return slices_of_ranks(plan, mesh, name)[group.rank()]
    is_cut = getattr(parameter, "tensor_model_parallel", False)
    dim = parameter.partition_dim if is_cut else 0
    size, rank = parameter.shape[dim], group.rank() if is_cut else 0
    return (Slice(name, dim, rank * size, (rank + 1) * size),)


def sharing_group(mesh: Mesh, name: str) -> ProcessGroup:
    """The ranks that a parameter is cut over: of the tensor axis, or of the experts' own."""
    return mesh.groups.expt_tp if is_of_an_expert(name) else mesh.groups.tp


def rank_of_expert(plan: ModelPlan, mesh: Mesh, expert: int) -> int:
    """The rank of the expert axis that holds an expert of the model."""
    assert plan.shape.moe is not None
    return expert // (plan.shape.moe.num_experts // mesh.groups.ep.size())


def _first_expert(plan: ModelPlan, experts: ProcessGroup) -> int:
    """The model's number of the first of this rank's experts, which are neighbours."""
    moe = plan.shape.moe
    return 0 if moe is None else experts.rank() * (moe.num_experts // experts.size())


def _with_expert_of_the_model(part: str, first_expert: int) -> str:
    """Local experts are a list of modules, or the weights of Transformer Engine's grouped layer."""
    if alone := _EXPERT_OF_A_LIST.fullmatch(part):
        return f"mlp.experts.{first_expert + int(alone[1])}.{alone[2]}"
    if grouped := _EXPERT_OF_A_GROUP.fullmatch(part):
        return f"mlp.experts.{first_expert + int(grouped[2])}.{grouped[1]}"
    return part
