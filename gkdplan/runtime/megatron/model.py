"""A ModelPlan as Megatron GPTModels, one a run of layers."""

from bisect import bisect_right
from itertools import accumulate
from typing import Any

import torch
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from torch import Tensor
from torch.nn import Module

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import Freeze, ModelPlan
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.config import (
    TORCH_DTYPES,
    layers_of_chunks,
    sections_of,
    transformer_config,
)
from gkdplan.runtime.megatron.hf_layout import VISION
from gkdplan.runtime.megatron.load_balance import freeze_choice_biases
from gkdplan.runtime.megatron.lora import add_adapters, let_gradients_pass
from gkdplan.runtime.megatron.mesh import Mesh, pipeline_of
from gkdplan.runtime.megatron.norms import add_output_norms, join_heads
from gkdplan.runtime.megatron.rotary import RotaryAngles, SectionedAngles
from gkdplan.runtime.megatron.said import hear
from gkdplan.runtime.vision.tower import build_tower
from gkdplan.vision import VisionShape
from gkdplan.vocab import Tier


def build_model(plan: ModelPlan, degrees: AxisDegrees, mesh: Mesh, *, trainable: bool) -> GPTModel:
    """This rank's shard of a model whose layout has no pipeline; as `build_chunks`."""
    (model,) = build_chunks(plan, degrees, mesh, trainable=trainable)
    return model


def build_chunks(
    plan: ModelPlan, degrees: AxisDegrees, mesh: Mesh, *, trainable: bool
) -> list[GPTModel]:
    """This rank's shard of each run of layers of its pipeline stage, in `plan.dtype`.

    `degrees` are those of `mesh`, whose groups the model talks in.

    They are built on the mesh's device; with `plan.offload` on the host they are built in host
    memory, and no part of them has been on the device.

    The weights are allocated but not set: `weights.load_weights` or `weights.draw_weights` sets
    them all, `adapters.draw_adapters` the adapters of `plan.lora`, which alone ask for a gradient
    then. With `trainable` false no parameter does and the model is in eval mode.
    """
    config = transformer_config(plan, degrees)
    is_first = mesh.pipeline_rank == 0
    is_last = mesh.pipeline_rank == mesh.pipeline_size - 1
    last_chunk = degrees.virtual_pipeline - 1
    shape = plan.shape
    chunks = []
    for index, layers in enumerate(plan.layers_of_stage(mesh.pipeline_rank)):
        with platform.megatron_calls(), pipeline_of(mesh, degrees):
            chunk = GPTModel(
                config,
                platform.layer_specs(
                    mesh.kernels,
                    shape,
                    layers,
                    norms_apart=plan.lora is not None,
                ),
                vocab_size=plan.padded_vocab_size,
                max_sequence_length=plan.shape.max_position_embeddings,
                pre_process=is_first and index == 0,
                post_process=is_last and index == last_chunk,
                share_embeddings_and_output_weights=plan.shape.tied_embeddings,
                position_embedding_type="rope" if sections_of(shape) is None else "mrope",
                scatter_embedding_sequence_parallel=plan.shape.vision is None,
                vp_stage=index if last_chunk else None,
                pg_collection=mesh.groups,
            )
        assert len(chunk.decoder.layers) == len(layers)
        chunks.append(_ready(chunk, plan, mesh, trainable=trainable))
    return chunks


def _ready(model: GPTModel, plan: ModelPlan, mesh: Mesh, *, trainable: bool) -> GPTModel:
    """What Megatron's constructor leaves open: rotary angles, the bound of the logits, norms of
    outputs, the embedding's scale, marks of shards, mode and place."""
    shape = plan.shape
    angles = RotaryAngles if sections_of(shape) is None else SectionedAngles
    model.rotary_pos_emb = angles(shape, mesh.groups.cp)
    model.logit_softcap = shape.logit_softcap
    if shape.norms != "pre":
        add_output_norms(model, platform.norm_class(mesh.kernels, shape))
    if shape.qk_norm_of_all_heads:
        join_heads(model, mesh.groups.tp)
    if shape.scaled_embeddings and model.pre_process:
        model.embedding.register_forward_hook(_scale_embedding)
    _mark_shards(model)
    if shape.vision is not None and model.pre_process:
        model.vision = build_tower(shape.vision, TORCH_DTYPES[plan.dtype])
        hear(model, shape.vision)
        for buffer in model.vision.buffers():
            buffer.data = buffer.data.to(mesh.device)
    model.requires_grad_(trainable).train(trainable)
    freeze_choice_biases(model)
    if plan.lora is not None:
        add_adapters(model, plan.lora, shape)
    if plan.freeze is not None and shape.vision is not None:
        _freeze(model, plan.freeze, shape.vision)
    is_there = plan.offload is Tier.HOST or mesh.device.type == "cpu"
    return model if is_there else model.to(mesh.device)


def _freeze(model: GPTModel, freeze: Freeze, vision: VisionShape) -> None:
    """What the plan keeps as it is, and what no feature depends on, which would only decay. A
    frozen decoder's gradients still pass from end to end."""
    for name, parameter in model.named_parameters():
        of_vision = name.removeprefix(VISION)
        if of_vision == name:
            is_frozen = freeze.language or not parameter.requires_grad
        elif of_vision.startswith(vision.projector):
            is_frozen = freeze.projector
        else:
            is_frozen = freeze.vision or not vision.is_read(of_vision)
        parameter.requires_grad_(not is_frozen)
    if freeze.language and model.pre_process:
        let_gradients_pass(model.embedding)


def first_layer(plan: ModelPlan, stage: int, chunk: int) -> int:
    """The model's number of the first layer of a stage's chunk."""
    return plan.layers_of_stage(stage)[chunk].start


def stage_of_layer(plan: ModelPlan, layer: int) -> int:
    """The pipeline stage that holds one of the model's layers."""
    ends = list(accumulate(layers_of_chunks(plan)))
    return bisect_right(ends, layer) % len(plan.stage_layers)


def _scale_embedding(embedding: Module, _: Any, embedded: Tensor) -> Tensor:
    """By sqrt(H), rounded to the model's dtype as transformers does."""
    return embedded * torch.tensor(embedding.config.hidden_size**0.5, dtype=embedded.dtype)


def _mark_shards(model: GPTModel) -> None:
    """Tell sharded weights from replicated ones, which the gradient's norm must count once.

    Megatron marks them while it initialises weights (megatron/core/tensor_parallel/layers.py),
    which this model skips.
    """
    for module in model.modules():
        dim = 1 if isinstance(module, RowParallelLinear) else 0
        sharded = (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding)
        if isinstance(module, sharded) and module.weight is not None:
            set_tensor_model_parallel_attributes(module.weight, True, dim, 1)
