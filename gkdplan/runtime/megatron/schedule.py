"""Micro-batches through this rank's part of a model, by Megatron's schedules.

Without a pipeline one after the other; else 1F1B, or interleaved where a stage has several chunks
(megatron/core/pipeline_parallel/schedules.py).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.utils import get_attr_wrapped_model, get_model_config
from torch import Tensor

from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.forward import padded_length
from gkdplan.runtime.megatron.mesh import tensor_group_of

T = TypeVar("T")
ForwardStep = Callable[[Iterator[T], Any], tuple[Tensor, Callable[..., Any]]]


def run_schedule(
    chunks: Sequence[Any],
    micro_batches: Sequence[T],
    forward_step: ForwardStep[T],
    *,
    shape: tuple[int, int] | None = None,
    forward_only: bool = False,
) -> list[Any]:
    """Run `chunks`, GPTModels or their data-parallel wrappers, on every micro-batch, over the
    groups that they were built with.

    `forward_step` gets an iterator over `micro_batches` and the chunk, and returns the chunk's
    output with Megatron's loss function. The loss functions' results come back in the order of the
    micro-batches; on stages other than the last there are none. Under a pipeline all micro-batches
    must have the one `shape`, (rows, tokens of this rank), and every stage takes part with the same
    ones.
    """
    config = get_model_config(chunks[0])
    groups = get_attr_wrapped_model(chunks[0], "pg_collection")
    schedule = get_forward_backward_func(
        config.pipeline_model_parallel_size, config.virtual_pipeline_model_parallel_size
    )
    num_rows, num_tokens = shape or (None, None)
    if num_tokens is not None:
        num_tokens = padded_length(config, num_tokens) * config.context_parallel_size
    with platform.megatron_calls(), tensor_group_of(groups):
        results = schedule(
            forward_step_func=forward_step,
            data_iterator=[iter(micro_batches) for _ in chunks],
            model=list(chunks),
            num_microbatches=len(micro_batches),
            seq_length=num_tokens,
            micro_batch_size=num_rows,
            forward_only=forward_only,
            collect_non_loss_data=forward_only,
            p2p_communicator=P2PCommunicator(groups.pp, config),
            pg_collection=groups,
        )
    for chunk in chunks:
        get_attr_wrapped_model(chunk, "set_input_tensor")(None)
    return results
