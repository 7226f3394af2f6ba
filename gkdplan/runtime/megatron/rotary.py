"""Rotary positions: the frequencies of a family, and by which of them a layer turns.

Megatron computes the angles of all positions once and hands every layer the same; families whose
layers turn by two bases, or some not at all, let each layer take its own of them.

Legend: S positions, R rotated coordinates of a head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from torch import Tensor
from torch.distributed import ProcessGroup

from gkdplan.rope import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    YarnScaling,
)
from gkdplan.shape import ModelShape
from gkdplan.vision import PatchedVision, VisionShape


@dataclass(frozen=True, slots=True)
class Rotation:
    """How one layer turns: by the angles of which of `num_tables`, None where it does not, with
    cosines and sines times `factor`."""

    table: int | None
    num_tables: int
    factor: float

    def angles(self, tables: Tensor) -> Tensor | None:
        """[S, 1, 1, R] of what `RotaryAngles` gives."""
        return None if self.table is None else tables.chunk(self.num_tables, dim=-1)[self.table]


def rotation_of(shape: ModelShape, layer: int) -> Rotation:
    """Of the model's layer of this number, from 0."""
    attention, scaling = shape.attention, shape.rope_scaling
    has_two = attention.sliding_rope_theta is not None
    num_tables = 2 if has_two else 1
    if layer in attention.unrotated_layers:
        return Rotation(None, num_tables, 1.0)
    if has_two and layer in attention.sliding_layers:
        return Rotation(1, num_tables, 1.0)
    is_multiplied = isinstance(scaling, YarnScaling | LongRopeScaling)
    return Rotation(0, num_tables, scaling.attention_factor if is_multiplied else 1.0)


class RotaryAngles(RotaryEmbedding):  # type: ignore[misc]
    """Megatron's rotary embedding with the frequencies of a shape.

    Called with a number of positions S it gives their angles [S, 1, 1, R], float32, of this rank's
    share under context parallelism; with a base for sliding layers those of both, [S, 1, 1, 2 R].
    Frequencies that depend on a sequence's length are those of S.
    """

    def __init__(self, shape: ModelShape, context_group: ProcessGroup) -> None:
        super().__init__(
            shape.head_dim,
            shape.attention.rotary_fraction,
            rotary_interleaved=shape.attention.rotary_in_pairs,
            use_cpu_initialization=True,
            cp_group=context_group,
        )
        self._shape = shape

    def get_emb(self, max_seq_len: int, offset: int = 0) -> Tensor:
        """The angles of all ranks' positions."""
        device = torch.cuda.current_device()
        positions_S = torch.arange(max_seq_len, dtype=torch.float32, device=device) + offset
        tables = [
            self._angles(positions_S, frequencies_R.to(device))
            for frequencies_R in frequency_tables(self._shape, max_seq_len)
        ]
        return torch.cat(tables, dim=-1)[:, None, None]

    def _angles(self, positions_S: Tensor, frequencies: Tensor) -> Tensor:
        """[S, R]: coordinate i turns with coordinate i + R/2, or in pairs 2i with 2i + 1."""
        half = torch.outer(positions_S, frequencies)
        if self.rotary_interleaved:
            return half.repeat_interleave(2, dim=-1)
        return torch.cat((half, half), dim=-1)


class SectionedAngles(RotaryAngles):
    """Of a model whose tokens stand in time, row and column, each of which turns some of a head's
    pairs of coordinates (Bai et al., arXiv 2502.13923, section 2.1.3).

    Called with positions [3, B, S] it gives their angles [S, B, 1, R], float32. `axes_F` says which
    of its positions each pair of coordinates turns by, int64 [R/2].
    """

    def __init__(self, shape: ModelShape, context_group: ProcessGroup) -> None:
        super().__init__(shape, context_group)
        self.axes_F = axes_of_pairs(shape.vision)

    def forward(
        self, positions_3BS: Tensor, sections: Sequence[int], cp_group: ProcessGroup | None = None
    ) -> Tensor:
        """The positions are this rank's share: nothing is cut here."""
        (frequencies_F,) = frequency_tables(self._shape, positions_3BS.size(-1))
        frequencies_F11 = frequencies_F.to(positions_3BS.device)[:, None, None]
        half = positions_3BS[self.axes_F].float() * frequencies_F11
        return torch.cat((half, half)).permute(2, 1, 0)[:, :, None]


def axes_of_pairs(vision: VisionShape | None) -> Tensor:
    """One section after the other, or in turn, time where rows or columns have no pair left."""
    assert isinstance(vision, PatchedVision), "one position turns all pairs"
    sections = vision.rotary_sections
    in_turn = [divmod(pair, len(sections)) for pair in range(sum(sections))]
    if vision.has_interleaved_sections:
        return torch.tensor([axis if turn < sections[axis] else 0 for turn, axis in in_turn])
    return torch.tensor([axis for axis, num in enumerate(sections) for _ in range(num)])


def frequency_tables(shape: ModelShape, num_positions: int) -> list[Tensor]:
    """The frequencies [R/2], float32, of a sequence of so many positions: the scaled ones, and with
    a base of their own those of sliding layers."""
    num_rotated = shape.rotated_size
    tables = [frequencies(shape.rope_theta, num_rotated, shape.rope_scaling, num_positions)]
    if shape.attention.sliding_rope_theta is not None:
        tables.append(frequencies(shape.attention.sliding_rope_theta, num_rotated))
    return tables


def frequencies(
    theta: float, num_rotated: int, scaling: RopeScaling | None = None, num_positions: int = 0
) -> Tensor:
    """float32 [num_rotated / 2], scaled by the rules of `gkdplan.rope` in the order of operations
    of transformers.modeling_rope_utils, to the last bit."""
    exponents = torch.arange(0, num_rotated, 2, dtype=torch.float32) / num_rotated
    periods = theta**exponents
    match scaling:
        case None:
            return 1.0 / periods
        case LinearScaling():
            return 1.0 / periods / scaling.factor
        case Llama3Scaling():
            return _llama3(1.0 / periods, scaling)
        case YarnScaling():
            return _yarn(theta, periods, scaling)
        case LongRopeScaling():
            is_long = num_positions > scaling.original_max_position_embeddings
            factors = scaling.long_factors if is_long else scaling.short_factors
            return 1.0 / (torch.tensor(factors, dtype=torch.float32) * periods)


def _llama3(unscaled: Tensor, scaling: Llama3Scaling) -> Tensor:
    """By the turns within the original context: below `low_freq_factor` wholly divided, above
    `high_freq_factor` kept."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    original = scaling.original_max_position_embeddings
    wavelengths = 2 * math.pi / unscaled
    share_kept = (original / wavelengths - low) / (high - low)
    between = (1 - share_kept) * unscaled / scaling.factor + share_kept * unscaled
    scaled = torch.where(wavelengths > original / low, unscaled / scaling.factor, between)
    return torch.where(wavelengths < original / high, unscaled, scaled)


def _yarn(theta: float, periods: Tensor, scaling: YarnScaling) -> Tensor:
    """A ramp over the coordinates between those that turn `beta_fast` and `beta_slow` times."""
    num_rotated = 2 * len(periods)

    def coordinate(turns: float) -> float:
        within = math.log(scaling.original_max_position_embeddings / (turns * 2 * math.pi))
        return (num_rotated * within) / (2 * math.log(theta))

    first, last = coordinate(scaling.beta_fast), coordinate(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, num_rotated - 1)
    if first == last:
        last += 0.001
    ramp = (torch.arange(len(periods), dtype=torch.float32) - first) / (last - first)
    share_kept = 1 - ramp.clamp(0, 1)
    return (1.0 / (scaling.factor * periods)) * (1 - share_kept) + (1.0 / periods) * share_kept
