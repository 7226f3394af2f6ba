"""Attention whose queries, keys and values come from low-rank latents of a token (DeepSeek-AI,
"DeepSeek-V2", arXiv 2405.04434, section 2.1)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LatentShape:
    """A token's keys and values are maps of one normed latent of `kv_rank` features, its queries of
    one of `query_rank`, or of the hidden state itself where that is None.

    Of the features of a head's query and key the last `rotated_size` turn with the position; those
    of the key are one vector for all heads, which comes from the hidden state. A head's values have
    `value_dim` features.
    """

    query_rank: int | None
    kv_rank: int
    rotated_size: int
    value_dim: int
