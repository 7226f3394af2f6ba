"""Causal attention of whole rows, each by the kernel that computes its scores.

Legend: S positions of this rank, B rows, N query heads, G kv heads, D head size, V that of values.
"""

from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.functional import pad

from gkdplan.runtime.megatron.blocked_attention import BlockedAttention
from gkdplan.runtime.megatron.causal_attention import causal_attention
from gkdplan.runtime.megatron.context_attention import ContextAttention
from gkdplan.runtime.megatron.scores import PLAIN_SCORES, Scores


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scores: Scores = PLAIN_SCORES,
    group: ProcessGroup | None = None,
) -> Tensor:
    """Query [S, B, N, D], key [S, B, G, D] and value [S, B, G, V], in Megatron's layout, to
    [S, B, N * V]. Values that are narrower than keys are made as wide, with zeros: torch's fused
    kernel for a CPU knows one size.

    The positions are this rank's share over the context `group`, all of them where there is none.
    torch's fused kernels do what they can; bounded scores, and windows that are shorter than the
    rows, go block by block. Raises RuntimeError as `causal_attention`.
    """
    size, value_size = query.size(-1), value.size(-1)
    if value_size < size:
        context = attend(query, key, pad(value, (0, size - value_size)), scores, group)
        return context.unflatten(-1, (-1, size))[..., :value_size].flatten(2)
    if group is not None and group.size() == 1:
        group = None
    num_positions = len(query) * (1 if group is None else group.size())
    scores = scores.of_rows(num_positions)
    if not scores.are_fused:
        return BlockedAttention.apply(query, key, value, scores, group).flatten(2)
    if group is not None:
        return ContextAttention.apply(query, key, value, scores.scale, group).flatten(2)
    return causal_attention(query, key, value, scores.scale)
