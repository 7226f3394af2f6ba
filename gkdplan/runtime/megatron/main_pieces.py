"""Which part of each parameter of a model its optimizer updates on this rank."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import Parameter


@dataclass(frozen=True, slots=True)
class MainPiece:
    """The elements from `start` to `stop` of a flat parameter, whose float32 `main` weights this
    rank updates by `adam`; both are None where it updates no element of it. `group` has the ranks
    that update the others; it is None where this rank updates all."""

    parameter: Parameter
    start: int
    stop: int
    main: Tensor | None
    group: ProcessGroup | None
    adam: torch.optim.Optimizer | None = None


def main_pieces(links: list[Any], buffers: list[Any], is_distributed: bool) -> Iterator[MainPiece]:
    """Every parameter of Megatron's gradient `buffers`, in an order that all ranks of its group
    share; `links` are the optimizers of a chain.

    Source: megatron/core/optimizer/{optimizer,distrib_optimizer}.py.
    """
    mains = {
        parameter: (*piece, link.optimizer) for link in links for parameter, *piece in _pieces(link)
    }
    for buffer in buffers:
        group = buffer.data_parallel_group if is_distributed else None
        for parameter in buffer.param_index_map:
            start, stop, main, adam = mains.get(parameter, (0, 0, None, None))
            yield MainPiece(parameter, start, stop, main, group, adam)


def _pieces(link: Any) -> Iterator[tuple[Parameter, int, int, Tensor]]:
    if hasattr(link, "model_float16_groups"):
        models = chain(*link.model_float16_groups, *link.model_fp32_groups)
        shards = chain(*link.shard_fp32_from_float16_groups, *link.shard_fp32_groups)
        for parameter, main in zip(models, shards, strict=True):
            place = link._get_model_param_range_map(parameter)["param"]
            yield parameter, place.start, place.end, main
    elif hasattr(link, "float16_groups"):
        models = chain(*link.float16_groups, *link.fp32_from_fp32_groups)
        copies = chain(*link.fp32_from_float16_groups, *link.fp32_from_fp32_groups)
        for parameter, main in zip(models, copies, strict=True):
            yield parameter, 0, parameter.numel(), main
    else:
        for group in link.optimizer.param_groups:
            for parameter in group["params"]:
                yield parameter, 0, parameter.numel(), parameter
