"""One rank's share of the experts of a layer, and their parameters."""

from dataclasses import dataclass

from gkdplan.experts import MoeShape
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.shape import ModelShape


@dataclass(frozen=True, slots=True)
class ExpertShare:
    """The experts divided over the expert axis, and each of them over the expert tensor axis."""

    moe: MoeShape
    expert: int = 1
    expert_tensor: int = 1

    @property
    def num_experts(self) -> int:
        """Experts of the rank."""
        return self.moe.num_experts // self.expert

    @property
    def ffn_size(self) -> int:
        """Columns of each that the rank holds."""
        return self.moe.expert_ffn_hidden_size // self.expert_tensor


def expert_share(shape: ModelShape, degrees: AxisDegrees) -> ExpertShare | None:
    """None for a dense model."""
    if shape.moe is None:
        return None
    return ExpertShare(shape.moe, degrees.expert, degrees.expert_tensor)


def shared_sizes(
    share: ExpertShare, hidden: int, tensor: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Elements of what every rank of the expert axis holds: the router, and the shared expert.

    The shared expert is divided over the tensor axis; the router and the gate are not
    (megatron/core/transformer/moe/{router,shared_experts}.py).
    """
    moe = share.moe
    ffn = moe.shared_ffn_hidden_size // tensor
    gate = {"mlp.shared_experts.gate_weight": hidden} if moe.shared_expert_gate else {}
    mlp = _gated_mlp("mlp.shared_experts", hidden, ffn) if ffn else {}
    bias = {"mlp.router.expert_bias": moe.num_experts} if moe.routing.has_choice_bias else {}
    return {"mlp.router.weight": moe.num_experts * hidden, **bias}, gate | mlp


def routed_sizes(share: ExpertShare, hidden: int) -> dict[str, int]:
    """Elements of the rank's own experts, one after the other
    (megatron/core/transformer/moe/experts.py, SequentialMLP)."""
    sizes: dict[str, int] = {}
    for index in range(share.num_experts):
        sizes |= _gated_mlp(f"mlp.experts.local_experts.{index}", hidden, share.ffn_size)
    return sizes


def _gated_mlp(prefix: str, hidden: int, ffn: int) -> dict[str, int]:
    return {
        f"{prefix}.linear_fc1.weight": 2 * ffn * hidden,
        f"{prefix}.linear_fc2.weight": hidden * ffn,
    }
