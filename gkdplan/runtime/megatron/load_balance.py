"""A loss that keeps the load of a layer's experts equal, and its measure.

Legend: N tokens, E experts.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor
from torch.nn import Parameter

from gkdplan.routing import PLAIN_ROUTING, Routing
from gkdplan.runplan.models import LoadBalance
from gkdplan.runtime.megatron.group_choice import GroupChoice


class Router(TopKRouter):
    """Megatron's router, whose load balancing loss is added as it is.

    Of a micro-batch of T tokens, each with k of E experts, that is
    E sum_i f_i P_i, f_i = 1 / (k T) sum over tokens of [i is chosen], P_i = 1 / T sum of p_i, with
    p the softmax over all experts, or their sigmoids scaled to a sum of 1 (Fedus et al., "Switch
    Transformers", 2021, equations 4 to 6, for k > 1 megatron/core/transformer/moe/moe_utils.py, and
    in groups DeepSeek-AI, arXiv 2405.04434, equations 23 to 25): 1 where the load is equal. T
    counts the tokens of all tensor and context ranks; the loss here is the part of this rank's.

    Where losses are sums over tokens Megatron multiplies it by the rank's tokens, and divides by
    all of them when gradients are reduced, which this project does not: its losses hold their
    normaliser already, and so does `config.moe_aux_loss_coeff` (runtime/megatron/experts.py).

    The numbers that it adds to scores where it chooses are `expert_bias`, float32, which nothing
    trains.
    """

    def __init__(self, *args: Any, routing: Routing = PLAIN_ROUTING, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sum_of_losses = torch.zeros((), device=torch.cuda.current_device())
        self._chooses_by_scores = routing.num_groups == 1 and not routing.has_choice_bias
        if routing.num_groups > 1:
            self.router_replay = GroupChoice(routing)
        if routing.has_choice_bias:
            self.expert_bias = Parameter(torch.zeros(len(self.weight)), requires_grad=False)

    def _apply_aux_loss(
        self,
        probs: Tensor,
        scores_for_aux_loss: Tensor,
        routing_map: Tensor,
        with_padding_mask: bool = False,
    ) -> Tensor:
        """Of what is chosen: Megatron's `routing_map` is of the best scores of each token, in
        whatever group, and of none of padding. An expert that a token has weighs more than 0."""
        if not self._chooses_by_scores:
            is_counted = routing_map.any(dim=1, keepdim=True)
            routing_map = (probs.detach() != 0) & is_counted
        activation: Tensor = super()._apply_aux_loss(
            probs, scores_for_aux_loss, routing_map, with_padding_mask
        )
        return activation

    def attach_and_log_load_balancing_loss(
        self, activation: Tensor, aux_loss_coeff: float, aux_loss: Tensor, *_: Any, **others: Any
    ) -> Tensor:
        """The activation, whose backward is the loss's too; the loss is summed up unweighted."""
        self.sum_of_losses += aux_loss.detach() / aux_loss_coeff
        return MoEAuxLossAutoScaler.apply(activation, aux_loss)


def take_mean_loss(chunks: Sequence[GPTModel], balance: LoadBalance) -> float:
    """The mean over layers with experts and over the micro-batches of the global batch of what the
    routers have summed up, which is cleared. Collective over all ranks."""
    routers = list(_routers(chunks))
    is_counted = chunks[0].pg_collection.tp_dp_cp.rank() == 0
    of_all_layers = torch.zeros(2, device=next(chunks[0].parameters()).device)
    of_all_layers[1] = len(routers) * is_counted
    for router in routers:
        of_all_layers[0] += router.sum_of_losses
        router.sum_of_losses.zero_()
    dist.all_reduce(of_all_layers)
    total, num_layers = of_all_layers.tolist()
    return total / num_layers / balance.num_micro_batches


def freeze_choice_biases(chunk: GPTModel) -> None:
    """Of every router of the chunk."""
    for router in _routers([chunk]):
        if router.expert_bias is not None:
            router.expert_bias.requires_grad_(False)


def _routers(chunks: Sequence[GPTModel]) -> Iterator[Router]:
    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, Router):
                yield module
