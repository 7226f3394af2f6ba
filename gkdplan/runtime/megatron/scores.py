"""What attention makes of the products of queries and keys before their softmax."""

from dataclasses import dataclass, replace

from gkdplan.attention import AttentionShape


@dataclass(frozen=True, slots=True)
class Scores:
    """Products times `scale` (None: 1 / sqrt(head size)), bounded to c tanh(score / c) by `softcap`
    c; a position sees the last `window` ones, itself among them, None: all before it."""

    scale: float | None = None
    softcap: float | None = None
    window: int | None = None

    @property
    def are_fused(self) -> bool:
        """Whether torch's fused kernels compute with them."""
        return self.softcap is None and self.window is None

    def of_rows(self, num_positions: int) -> "Scores":
        """The same without a window that no row of so many positions passes."""
        is_passed = self.window is not None and num_positions > self.window
        return self if is_passed else replace(self, window=None)

    def scale_of(self, head_dim: int) -> float:
        """What multiplies the products."""
        return head_dim**-0.5 if self.scale is None else self.scale

    def first_key(self, query: int) -> int:
        """The first position that the query of a position sees."""
        return 0 if self.window is None else max(0, query - self.window + 1)


PLAIN_SCORES = Scores()


def scores_of(attention: AttentionShape, layer: int) -> Scores:
    """Of the model's layer of this number, from 0."""
    window = attention.window if layer in attention.sliding_layers else None
    return Scores(attention.scale, attention.softcap, window)
