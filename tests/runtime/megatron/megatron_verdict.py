"""What megatron-core itself says of a layout: its checks are run, none is repeated here.

One process plays rank 0 of the world over torch's fake process group. Megatron builds its groups,
its config and every chunk of rank 0's stage, counts the micro-batches, enters its schedule up to
the first forward, and enters a layer of experts up to its router. What it raises on the way is its
refusal.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import extract_tb
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.num_microbatches_calculator import ConstantNumMicroBatchesCalculator
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.testing._internal.distributed.fake_pg import FakeStore

from gkdplan.planner.layout import is_sequence_parallel
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.norms import RMSNorm
from gkdplan.runtime.megatron.torch_modules import CoreAttention
from gkdplan.shape import ModelShape
from gkdplan.spec.learning import Batch
from gkdplan.spec.models import Parallel, Recompute
from gkdplan.vocab import Tier

VOCAB_DIVISOR = 128
NUM_TOKENS = 8


class _StartedError(Exception):
    """The schedule has come to its first forward, or a layer of experts to its router."""


def refusal(
    shape: ModelShape,
    parallel: Parallel,
    world_size: int,
    batch: Batch,
    recompute: Recompute | None,
) -> str | None:
    """Megatron's reason against a layout, or None; `recompute` is None for a model that only runs
    forward. What another library or a test raises is no refusal and comes out."""
    with _fake_world(world_size), warnings.catch_warnings(action="ignore"):
        try:
            _run_to_the_first_forward(shape, parallel, batch, recompute)
        except (AssertionError, RuntimeError, ValueError) as error:
            raised_in = extract_tb(error.__traceback__)[-1].filename
            if "megatron/core" not in raised_in:
                raise
            return f"{type(error).__name__}: {error}"
    return None


def _run_to_the_first_forward(
    shape: ModelShape, parallel: Parallel, batch: Batch, recompute: Recompute | None
) -> None:
    num_chunks = parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=num_chunks,
        context_parallel_size=parallel.context,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=parallel.expert_tensor,
        create_gloo_process_groups=False,
    )
    config = _config(shape, parallel, num_chunks, recompute)
    chunks = [_chunk(shape, config, index) for index in range(num_chunks or 1)]
    for chunk in chunks:
        chunk.train(recompute is not None)
        _enter_experts(chunk)
    num_micro_batches = ConstantNumMicroBatchesCalculator(
        global_batch_size=batch.global_,
        micro_batch_size=batch.micro,
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        decrease_batch_size_if_needed=False,
        rank=1,
    ).get()
    _enter_schedule(chunks, batch.micro, num_micro_batches, forward_only=recompute is None)


def _config(
    shape: ModelShape, parallel: Parallel, num_chunks: int | None, recompute: Recompute | None
) -> TransformerConfig:
    """The plan's words in Megatron's: an argument that the plan leaves out is left out."""
    moe, optional = shape.moe, {}
    if moe is not None:
        optional |= {
            "num_moe_experts": moe.num_experts,
            "moe_router_topk": moe.num_experts_per_token,
            "moe_ffn_hidden_size": moe.expert_ffn_hidden_size,
            "moe_shared_expert_intermediate_size": moe.shared_ffn_hidden_size or None,
            "moe_token_dispatcher_type": "alltoall",
        }
    if recompute is not None and recompute.granularity != "none":
        optional |= {
            "recompute_granularity": recompute.granularity,
            "recompute_method": recompute.method,
            "recompute_num_layers": recompute.num_layers,
            "recompute_modules": list(recompute.modules) or None,
        }
    if parallel.stage_layers is not None:
        optional["pipeline_model_parallel_layout"] = _given_stages(
            parallel.stage_layers, parallel.virtual_pipeline
        )
    return TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_kv_heads,
        kv_channels=shape.head_dim,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        normalization="RMSNorm",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=parallel.tensor,
        sequence_parallel=is_sequence_parallel(parallel),
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=num_chunks,
        num_layers_in_first_pipeline_stage=parallel.first_stage_layers,
        num_layers_in_last_pipeline_stage=parallel.last_stage_layers,
        context_parallel_size=parallel.context,
        expert_model_parallel_size=parallel.expert,
        expert_tensor_parallel_size=parallel.expert_tensor,
        pipeline_dtype=torch.float32,
        perform_initialization=False,
        **platform.config_overrides("gloo", Tier.DEVICE),
        **optional,
    )


def _given_stages(stage_layers: tuple[int, ...], num_chunks: int) -> list[list[LayerType]]:
    """The first chunk of every stage, then the second; the embedding comes first, the loss last.

    What does not divide makes the first chunks longer, which Megatron allows.
    """
    chunks = [
        [LayerType.decoder] * (num // num_chunks + (index < num % num_chunks))
        for index in range(num_chunks)
        for num in stage_layers
    ]
    chunks[0].insert(0, LayerType.embedding)
    chunks[-1].append(LayerType.loss)
    return chunks


def _chunk(shape: ModelShape, config: TransformerConfig, index: int) -> GPTModel:
    """One run of layers of rank 0's stage."""
    is_interleaved = config.virtual_pipeline_model_parallel_size is not None
    num_layers = get_num_layers_to_build(config, vp_stage=index if is_interleaved else None)
    spec = get_gpt_layer_local_spec(
        num_experts=None if shape.moe is None else shape.moe.num_experts,
        moe_grouped_gemm=False,
        normalization="RMSNorm",
    )
    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    layer.self_attention.submodules.core_attention = CoreAttention
    return GPTModel(
        config,
        TransformerBlockSubmodules([spec] * num_layers, layer_norm=RMSNorm),
        vocab_size=VOCAB_DIVISOR * config.tensor_model_parallel_size,
        max_sequence_length=NUM_TOKENS,
        position_embedding_type="rope",
        pre_process=index == 0,
        post_process=False,
        vp_stage=index if is_interleaved else None,
    )


def _enter_experts(chunk: GPTModel) -> None:
    """The forward of every layer of experts, as far as its router."""
    for module in chunk.modules():
        if isinstance(module, MoELayer):
            with patch.object(module, "shared_experts_compute", _start), suppress(_StartedError):
                module(torch.zeros(1, 1, chunk.config.hidden_size))


def _enter_schedule(
    chunks: list[GPTModel], micro_rows: int, num_micro_batches: int, *, forward_only: bool
) -> None:
    """One step of Megatron's own schedule, as far as its first forward."""
    with platform.megatron_calls(), suppress(_StartedError):
        get_forward_backward_func()(
            forward_step_func=_start,
            data_iterator=[iter(())] * len(chunks),
            model=chunks,
            num_microbatches=num_micro_batches,
            seq_length=NUM_TOKENS,
            micro_batch_size=micro_rows,
            forward_only=forward_only,
        )
        raise AssertionError("the schedule ran no forward")


def _start(*_: object, **__: object) -> None:
    raise _StartedError


def _no_stream(*_: object, **__: object) -> None:
    """Megatron's token dispatcher keeps one for copies, which are not made here."""


@contextmanager
def _fake_world(world_size: int) -> Iterator[None]:
    platform.prepare("gloo")
    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    try:
        with patch.object(torch.cuda, "Stream", _no_stream):
            yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
