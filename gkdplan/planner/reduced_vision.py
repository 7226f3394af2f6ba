"""Eyes in small sizes with every part of the large ones, before a decoder of reduced shape."""

from dataclasses import replace
from typing import TypeVar, assert_never

from gkdplan.shape import ModelShape
from gkdplan.vision import ClipVision, InternVision, Qwen3Vision, QwenVision, VisionShape

HIDDEN, NUM_HEADS, NUM_LAYERS = 16, 2, 3
PATCH = 4
IMAGE_TOKEN_ID = 258
"""The second of the three tokens that the tokenizer of a rehearsal has beside bytes and an end."""
TOKENS_A_SIDE = 2
"""Of a window, and of a tile of InternVL's."""
POSITIONS = 5
"""A side of the square of a tower's learnt positions, which images have to interpolate."""

Kind = TypeVar("Kind", ClipVision, InternVision, QwenVision, Qwen3Vision)


def reduced_vision(
    vision: VisionShape, decoder: ModelShape, scale: int, layers_of_first_chunk: int
) -> VisionShape:
    """`vision` for a decoder of reduced shape, `scale` times as wide; a tower speaks to no layer
    past the first chunk's."""
    if isinstance(vision, ClipVision):
        return replace(
            _of_any_kind(vision, decoder, scale),
            image_size=3 * PATCH,
            feature_layer=_feature_layer(vision),
        )
    if isinstance(vision, InternVision):
        side = TOKENS_A_SIDE * vision.merge_size * PATCH
        return replace(_of_any_kind(vision, decoder, scale), image_size=side)
    sections = _sections(decoder.head_dim // 2)
    if isinstance(vision, QwenVision):
        return replace(
            _of_any_kind(vision, decoder, scale),
            rotary_sections=sections,
            window_size=TOKENS_A_SIDE * vision.merge_size * PATCH,
            full_layers=(1,) if vision.full_layers else (),
        )
    if isinstance(vision, Qwen3Vision):
        num_deep = min(len(vision.deep_layers), layers_of_first_chunk, NUM_LAYERS)
        return replace(
            _of_any_kind(vision, decoder, scale),
            rotary_sections=sections,
            num_positions=POSITIONS**2,
            deep_layers=tuple(range(num_deep)),
        )
    assert_never(vision)


def _of_any_kind(vision: Kind, decoder: ModelShape, scale: int) -> Kind:
    return replace(
        vision,
        hidden_size=HIDDEN * scale,
        num_layers=NUM_LAYERS,
        num_heads=NUM_HEADS,
        ffn_hidden_size=2 * HIDDEN * scale,
        patch_size=PATCH,
        output_size=decoder.hidden_size,
        image_token_id=IMAGE_TOKEN_ID,
    )


def _feature_layer(vision: ClipVision) -> int:
    """As far from the end, or the begin, as there are layers."""
    return max(-NUM_LAYERS, min(vision.feature_layer, NUM_LAYERS))


def _sections(num_pairs: int) -> tuple[int, int, int]:
    """Pairs that turn by time, row and column."""
    of_image = num_pairs // 4
    return num_pairs - 2 * of_image, of_image, of_image
