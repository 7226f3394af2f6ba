"""Frequencies against those of transformers, to the last bit."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gkdplan.rope import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    YarnScaling,
)
from gkdplan.runtime.megatron.rotary import frequencies

HEAD_DIM, ORIGINAL = 16, 32
LINEAR = {"rope_type": "linear", "factor": 8.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "attention_factor": 1.3,
    "original_max_position_embeddings": ORIGINAL,
}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 10 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "attention_factor": 1.19,
    "original_max_position_embeddings": ORIGINAL,
}
HALF = {key: value[:4] if isinstance(value, list) else value for key, value in LONG.items()}


def longrope(table: dict[str, Any]) -> LongRopeScaling:
    return LongRopeScaling(
        tuple(table["short_factor"]), tuple(table["long_factor"]), ORIGINAL, 1.19
    )


@pytest.mark.parametrize(
    ("table", "scaling", "fraction", "num_positions"),
    [
        (LINEAR, LinearScaling(8.0), 1.0, 5),
        (LLAMA3, Llama3Scaling(8.0, 1.0, 4.0, ORIGINAL), 1.0, 5),
        (YARN, YarnScaling(4.0, ORIGINAL, 4.0, 1.0, 1.3, truncate=True), 1.0, 5),
        (YARN | {"truncate": False}, YarnScaling(4.0, ORIGINAL, 4.0, 1.0, 1.3, False), 1.0, 5),
        (
            YARN | {"beta_fast": 1.0},
            YarnScaling(4.0, ORIGINAL, 1.0, 1.0, 1.3, truncate=False),
            0.5,
            5,
        ),
        (LONG, longrope(LONG), 1.0, ORIGINAL),
        (LONG, longrope(LONG), 1.0, ORIGINAL + 1),
        (HALF, longrope(HALF), 0.5, ORIGINAL + 1),
    ],
)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_frequencies_are_those_of_transformers(
    table: dict[str, Any], scaling: RopeScaling, fraction: float, num_positions: int, theta: float
) -> None:
    rope = {"rope_theta": theta, "partial_rotary_factor": fraction, **table}
    config = LlamaConfig(head_dim=HEAD_DIM, max_position_embeddings=256, rope_parameters=rope)
    expected, factor = ROPE_INIT_FUNCTIONS[table["rope_type"]](config, seq_len=num_positions)
    result = frequencies(theta, int(HEAD_DIM * fraction), scaling, num_positions)
    assert result.dtype is torch.float32
    assert torch.equal(result, expected)
    assert factor == getattr(scaling, "attention_factor", 1.0)
