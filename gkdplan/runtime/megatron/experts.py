"""The experts of a model as fields of Megatron's config."""

from typing import Any

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import ModelPlan


def expert_fields(plan: ModelPlan, degrees: AxisDegrees) -> dict[str, Any]:
    """Fields of TransformerConfig; none for a dense model, which has no expert axes.

    No token is dropped. A loss that balances the load has the share of one micro-batch in the
    global batch (runtime/megatron/load_balance.py).

    The router multiplies in float32, and the weights that it gives a token's experts stay so. With
    bf16 weights transformers rounds the logits of these families to bf16 before its float32
    softmax, which leaves near ties to rounding. Where the weights are not scaled to a sum of 1, the
    softmax is over all experts (megatron/core/transformer/moe/moe_utils.py,
    topk_routing_with_score_function).
    """
    moe, balance = plan.shape.moe, plan.load_balance
    if moe is None:
        return {}
    return {
        "num_moe_experts": moe.num_experts,
        "moe_router_topk": moe.num_experts_per_token,
        "moe_ffn_hidden_size": moe.expert_ffn_hidden_size,
        "moe_shared_expert_intermediate_size": moe.shared_ffn_hidden_size or None,
        "moe_shared_expert_gate": moe.shared_expert_gate,
        "moe_router_pre_softmax": not moe.weights_sum_to_one,
        "moe_router_score_function": moe.routing.score,
        "moe_router_topk_scaling_factor": moe.routing.scale,
        "moe_router_dtype": "fp32",
        "moe_router_load_balancing_type": "none" if balance is None else "aux_loss",
        "moe_aux_loss_coeff": (
            0.0 if balance is None else balance.coefficient / balance.num_micro_batches
        ),
        "moe_token_dispatcher_type": "alltoall",
        "expert_model_parallel_size": degrees.expert,
        "expert_tensor_parallel_size": degrees.expert_tensor,
    }
