"""How rotary frequencies are scaled beyond the context of a model's first training.

With the base b and a rotated head size d, the unscaled frequencies are f_i = b^(-2i/d) for
i = 0 ... d/2 - 1 (Su et al., arXiv 2104.09864). The rules are those of
transformers.modeling_rope_utils, under its names.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every frequency is divided by `factor` (Chen et al., arXiv 2306.15595)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Low frequencies are divided by `factor`, high ones kept, those between interpolated
    (Grattafiori et al., "The Llama 3 Herd of Models", 2024)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """Frequencies are divided by `factor` by how often they turn within the original context, from
    `beta_slow` turns down, wholly, to `beta_fast` up, not at all; cosines and sines are multiplied
    by `attention_factor` (Peng et al., arXiv 2309.00071). With `truncate` the bounds are rounded to
    whole coordinates."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool


@dataclass(frozen=True, slots=True)
class LongRopeScaling:
    """Each frequency is divided by a factor of its own: one of `short_factors` in sequences of up
    to `original_max_position_embeddings` positions, of `long_factors` in longer ones; cosines and
    sines are multiplied by `attention_factor` (Ding et al., arXiv 2402.13753)."""

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_position_embeddings: int
    attention_factor: float


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling
