"""Which ranks talk with each other in a model's layout, by Megatron's names of its groups.

Ranks follow the order "tp-cp-ep-dp-pp" of megatron/core/parallel_state.py, experts' own axes too.
"""

from datetime import timedelta

import torch.distributed as dist
from megatron.core.parallel_state import RankGenerator
from megatron.core.process_groups_config import ProcessGroupCollection

from gkdplan.runplan.layout import AxisDegrees

_ORDER = "tp-cp-ep-dp-pp"
_OF_ALL_LAYERS = {
    "tp": "tp",
    "cp": "cp",
    "pp": "pp",
    "dp": "dp",
    "dp_cp": "dp-cp",
    "mp": "tp-pp",
    "tp_cp": "tp-cp",
    "tp_dp_cp": "tp-dp-cp",
}
_OF_EXPERTS = {"ep": "ep", "expt_tp": "tp", "expt_dp": "dp", "tp_ep": "tp-ep"}
"""Field of Megatron's collection -> the axes that its groups span."""

Partition = list[list[int]]


def partitions(degrees: AxisDegrees) -> dict[str, Partition]:
    """For each field the ranks of every group; ranks that are in none have no part in it."""
    layers = RankGenerator(
        tp=degrees.tensor,
        ep=1,
        dp=degrees.data,
        pp=degrees.pipeline,
        cp=degrees.context,
        order=_ORDER,
    )
    experts = RankGenerator(
        tp=degrees.expert_tensor,
        ep=degrees.expert,
        dp=degrees.expert_data,
        pp=degrees.pipeline,
        cp=1,
        order=_ORDER,
    )
    pipelines = layers.get_ranks("pp")
    return {
        **{field: layers.get_ranks(axes) for field, axes in _OF_ALL_LAYERS.items()},
        **{field: experts.get_ranks(axes) for field, axes in _OF_EXPERTS.items()},
        "embd": [sorted({ranks[0], ranks[-1]}) for ranks in pipelines],
        "pos_embd": [ranks[:1] for ranks in pipelines],
    }


def groups_of_layout(
    degrees: AxisDegrees,
    others: ProcessGroupCollection,
    degrees_of_others: AxisDegrees,
    timeout: timedelta,
) -> ProcessGroupCollection:
    """The groups of a second model on the same ranks: where they hold the same ranks those of the
    first one, else new ones, whose collectives fail after `timeout`. Collective over all ranks.
    """
    known = partitions(degrees_of_others)
    groups = {
        field: getattr(others, field)
        if partition == known[field]
        else dist.new_subgroups_by_enumeration(partition, timeout=timeout)[0]
        for field, partition in partitions(degrees).items()
    }
    return ProcessGroupCollection(**groups, hcp=None)
