"""The experts of a model as fields of Megatron's config."""

from typing import Any

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.shape import ModelShape


def expert_fields(shape: ModelShape, degrees: AxisDegrees) -> dict[str, Any]:
    """Fields of TransformerConfig; none for a dense model, which has no expert axes.

    No token is dropped, no loss balances the load, and the router works in the model's dtype, as
    in transformers. Where the weights of a token's experts are not scaled to a sum of 1, the
    softmax is over all experts (megatron/core/transformer/moe/moe_utils.py,
    topk_routing_with_score_function).
    """
    moe = shape.moe
    if moe is None:
        return {}
    return {
        "num_moe_experts": moe.num_experts,
        "moe_router_topk": moe.num_experts_per_token,
        "moe_ffn_hidden_size": moe.expert_ffn_hidden_size,
        "moe_shared_expert_intermediate_size": moe.shared_ffn_hidden_size or None,
        "moe_shared_expert_gate": moe.shared_expert_gate,
        "moe_router_pre_softmax": not moe.weights_sum_to_one,
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
        "moe_token_dispatcher_type": "alltoall",
        "expert_model_parallel_size": degrees.expert,
        "expert_tensor_parallel_size": degrees.expert_tensor,
    }
