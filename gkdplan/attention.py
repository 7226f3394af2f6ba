"""What attention of a family does beside the plain one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What a family's attention does beside softmax(q k / sqrt(head_dim)) v over all positions.

    `scale` multiplies the scores in place of 1 / sqrt(head_dim); `softcap` c bounds them to
    c tanh(score / c). In the layers `sliding_layers` a position sees the last `window` positions,
    itself among them, and rotates by `sliding_rope_theta`, unscaled, where that is given. The
    layers `unrotated_layers` have no rotary positions. `rotary_fraction` is the share of a head
    that is rotated, its first coordinates: in halves, or `rotary_in_pairs` of neighbours.
    """

    scale: float | None = None
    softcap: float | None = None
    window: int | None = None
    sliding_layers: tuple[int, ...] = ()
    sliding_rope_theta: float | None = None
    unrotated_layers: tuple[int, ...] = ()
    rotary_fraction: float = 1.0
    rotary_in_pairs: bool = False

    def keeping(self, layers: Sequence[int]) -> "AttentionShape":
        """Of a model that is made of these layers."""
        sliding, unrotated = (
            tuple(new for new, old in enumerate(layers) if old in special)
            for special in (self.sliding_layers, self.unrotated_layers)
        )
        window = self.window if sliding else None
        return replace(self, window=window, sliding_layers=sliding, unrotated_layers=unrotated)


PLAIN_ATTENTION = AttentionShape()
