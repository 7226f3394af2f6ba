"""Bytes of images on a rank with a tower: what waits of them, and what passes as it looks at them.

Images are counted by the tokens that they take of the decoder's sequence. What is kept for the
backward where tower or projector learns is in learning_eyes.py.
"""

from typing import assert_never

from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.learning_eyes import kept_bytes
from gkdplan.planner.memory.loss import INT64_BYTES
from gkdplan.planner.memory.model import RankModel
from gkdplan.shape import ModelShape
from gkdplan.vision import (
    ClipVision,
    InternVision,
    PatchedVision,
    Qwen3Vision,
    QwenVision,
    TiledVision,
    VisionShape,
    deep_layers_of,
)
from gkdplan.vocab import Dtype

FP32_BYTES = 4


def pixel_bytes(shape: ModelShape, num_tokens: int) -> int:
    """Of all images of a rank's rows: float32 pixels, and for each feature its place and number
    (runtime/vision/pixels.py)."""
    vision = shape.vision
    if vision is None:
        return 0
    return FP32_BYTES * vision.num_pixels(num_tokens) + 2 * INT64_BYTES * num_tokens


def position_bytes(shape: ModelShape, num_tokens: int) -> int:
    """Of tokens that stand in more than one order, on every rank that computes with them."""
    vision = shape.vision
    if vision is None or vision.num_position_axes == 1:
        return 0
    return vision.num_position_axes * INT64_BYTES * num_tokens


def looking_bytes(model: RankModel, batch: Batch, num_tokens: int) -> int:
    """The most that is alive in tower and projector, or where the features join the embedding."""
    vision = model.shape.vision
    if vision is None or num_tokens == 0:
        return 0
    tower = tower_bytes(vision, num_tokens, model.dtype)
    return max(tower, joining_bytes(model, batch, num_tokens))


def joining_bytes(model: RankModel, batch: Batch, num_tokens: int) -> int:
    """What is alive where the features join the embedding, if there are any, beside what is kept
    for the backward."""
    vision = model.shape.vision
    joined = 2 * batch.num_tokens * model.shape.hidden_size
    if vision is None:
        return joined * model.dtype.num_bytes
    features = (1 + deep_layers_of(vision)) * num_tokens * vision.output_size
    return kept_bytes(model, num_tokens) + (features + joined) * model.dtype.num_bytes


def said_bytes(model: RankModel, num_tokens: int) -> int:
    """What a tower says to the decoder's first layers beside the embedding."""
    vision = model.shape.vision
    if vision is None:
        return 0
    return deep_layers_of(vision) * num_tokens * vision.output_size * model.dtype.num_bytes


def tower_bytes(vision: VisionShape, num_tokens: int, dtype: Dtype) -> int:
    """The most that is alive while images of so many tokens are looked at."""
    num_states = vision.num_states_of(num_tokens)
    match vision:
        case ClipVision():
            elements = num_states * _clip_elements(vision)
            return (elements + _cast_pixels(vision, num_tokens, dtype)) * dtype.num_bytes
        case InternVision():
            elements = _intern_elements(vision, num_tokens)
            return (elements + _cast_pixels(vision, num_tokens, dtype)) * dtype.num_bytes
        case QwenVision():
            mlp = 3 * vision.hidden_size + 3 * vision.ffn_hidden_size
            return num_states * _patch_bytes(vision, mlp, dtype)
        case Qwen3Vision():
            mlp = 3 * vision.hidden_size + 2 * vision.ffn_hidden_size
            said = len(vision.deep_layers) * num_tokens * vision.output_size * dtype.num_bytes
            patch = _patch_bytes(vision, mlp, dtype) + _position_bytes(vision)
            return num_states * patch + said
        case _:
            assert_never(vision)


def _clip_elements(vision: ClipVision) -> int:
    """Of a state. Of a layer's MLP its width three times (for QuickGELU, x sigmoid(1.702 x), twice
    more) beside the layer's input, the sum with attention and the norm of it; of attention the
    layer's input, its norm, queries, keys, values and two outputs; of the projector its input and
    two outputs of one of its layers."""
    mlp = 3 * vision.hidden_size + 3 * vision.ffn_hidden_size
    attention = 7 * vision.hidden_size
    projector = vision.hidden_size + 2 * vision.output_size
    return max(mlp, attention, projector)


def _intern_elements(vision: InternVision, num_tokens: int) -> int:
    """The tower holds what its first layer takes. Of a layer's MLP its width twice beside the
    layer's input, attention's output, scaled, the sum of both and the norm of it; of attention the
    layer's input, its norm, queries, keys, values and two outputs; of the projector the tower's
    states, joined and normed, or joined and two outputs of one of its layers."""
    hidden, joined = vision.hidden_size, num_tokens * vision.merged_size
    out = num_tokens * vision.output_size
    layer = vision.num_states_of(num_tokens) * max(
        5 * hidden + 2 * vision.ffn_hidden_size, 8 * hidden
    )
    projector = vision.num_states_of(num_tokens) * hidden + joined + max(joined + out, 2 * out)
    return max(layer, projector)


def _cast_pixels(vision: TiledVision, num_tokens: int, dtype: Dtype) -> int:
    """Numbers of tiles, which the tower takes in its own dtype and holds."""
    return 0 if dtype is Dtype.FP32 else vision.num_pixels(num_tokens)


def _position_bytes(vision: Qwen3Vision) -> int:
    """Of a patch: the position that is interpolated in float32, the numbers and weights of the four
    between which it lies, and its row and column, all held through the layers."""
    of_corners = 4 * (INT64_BYTES + FP32_BYTES)
    return FP32_BYTES * vision.hidden_size + of_corners + 2 * INT64_BYTES


def _patch_bytes(vision: PatchedVision, mlp: int, dtype: Dtype) -> int:
    """Of a patch, with h of its width and w bytes an element; the float32 cosines and sines of its
    row and column stay through all layers.

    Of a layer's MLP `mlp` elements: its width three times, or twice where it is not gated, beside
    the layer's input, the sum with attention and the norm of it. Of attention the input, its norm,
    the fused projection, queries and keys turned, the output of windows, joined and projected,
    10 h; or where not float32, turning keys: queries and keys in float32, the turned queries and
    three parts of the turned keys, 5 h w + 24 h bytes.
    """
    hidden, width = vision.hidden_size, dtype.num_bytes
    angles = 2 * hidden // vision.num_heads * FP32_BYTES
    attention = 10 * hidden * width
    turning = 0 if dtype is Dtype.FP32 else 5 * hidden * width + 6 * hidden * FP32_BYTES
    return angles + max(mlp * width, attention, turning)
