"""The experts of layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gkdplan.routing import PLAIN_ROUTING, Routing


@dataclass(frozen=True, slots=True)
class MoeShape:
    """The experts of layers: gated MLPs of which a router picks some for each token.

    All layers have them but `dense_layers`, which have one gated MLP, of the model's width.
    `shared_ffn_hidden_size` is the width of an expert that sees every token, 0 where there is none;
    `shared_expert_gate` says that its output is scaled by a gate of its own. `weights_sum_to_one`
    says that the router's weights of a token's experts are scaled to that sum, before the scale of
    its `routing`.
    """

    num_experts: int
    num_experts_per_token: int
    expert_ffn_hidden_size: int
    shared_ffn_hidden_size: int = 0
    shared_expert_gate: bool = False
    weights_sum_to_one: bool = True
    dense_layers: tuple[int, ...] = ()
    routing: Routing = PLAIN_ROUTING

    def keeping(self, layers: Sequence[int]) -> "MoeShape | None":
        """Of a model that is made of these layers; None where none of them has experts."""
        dense = tuple(new for new, old in enumerate(layers) if old in self.dense_layers)
        return replace(self, dense_layers=dense) if len(dense) < len(layers) else None
