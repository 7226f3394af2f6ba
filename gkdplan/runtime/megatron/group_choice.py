"""Experts that a router chooses within groups.

Megatron scores a group by the sum of its best experts, as many as a token has in each of its groups
(megatron/core/transformer/moe/moe_utils.py, group_limited_topk); the families here by a number of
their own.

Legend: N tokens, E experts, G groups.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gkdplan.routing import Routing


@dataclass(frozen=True, slots=True)
class GroupChoice:
    """In the place of what replays a router's choices, which Megatron asks for them."""

    routing: Routing

    def get_replay_topk(
        self, scores_NE: Tensor, topk: int, _groups: Any, _group_topk: Any, _: Callable[..., Any]
    ) -> tuple[Tensor, Tensor]:
        """The largest scores within a token's groups, and their experts, [N, topk] each."""
        experts = self._experts(scores_NE, topk)
        return scores_NE.gather(1, experts), experts

    @torch.no_grad()
    def _experts(self, scores_NE: Tensor, number: int) -> Tensor:
        routing = self.routing
        groups = scores_NE.unflatten(1, (routing.num_groups, -1))
        of_groups_NG = groups.topk(routing.num_scoring_group, dim=-1).values.sum(dim=-1)
        chosen = of_groups_NG.topk(routing.num_groups_per_token, dim=-1).indices
        is_closed_NG = torch.ones_like(of_groups_NG, dtype=torch.bool).scatter(1, chosen, False)
        open_NE = groups.masked_fill(is_closed_NG[..., None], -torch.inf).flatten(1)
        return open_NE.topk(number, dim=1).indices
