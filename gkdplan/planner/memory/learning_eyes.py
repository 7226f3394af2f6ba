"""Bytes that eyes which learn keep of a micro-batch's images, from their forward to their backward.

h width of a state, f of its MLP, w bytes of an element. What torch's modules keep, as transformers
puts them together: a linear layer its input where its weight learns, a layer norm its input and, as
the next layer's input, its output, an RMSNorm a float32 copy of its input, what is normalised and
its output, attention queries, keys, values, its output and a float32 log-sum-exp of each head.
"""

from typing import assert_never

from gkdplan.planner.memory.model import RankModel
from gkdplan.vision import (
    ClipVision,
    InternVision,
    Qwen3Vision,
    QwenVision,
    VisionShape,
    deep_layers_of,
)
from gkdplan.vocab import Dtype

FP32_BYTES = 4
INT64_BYTES = 8


def kept_bytes(model: RankModel, num_tokens: int) -> int:
    """Of images of so many tokens; 0 where neither tower nor projector learns."""
    vision = model.shape.vision
    if vision is None or not (model.trains_tower or model.trains_projector):
        return 0
    tower = _tower_bytes(vision, num_tokens, model.dtype) if model.trains_tower else 0
    return tower + _projector_bytes(vision, num_tokens, model)


def backward_bytes(model: RankModel, num_tokens: int) -> int:
    """What passes in the backward at most: the gradients of what a module takes and makes, and of
    its weight where it learns, less what the modules after it have released. In a projector's last
    linear layer, its activation or its first linear layer, whose inputs need a gradient if they are
    normed or the tower learns; or in the last linear layer of the tower."""
    vision = model.shape.vision
    if vision is None or not (model.trains_tower or model.trains_projector):
        return 0
    hidden, ffn, num_states = (
        vision.hidden_size,
        vision.ffn_hidden_size,
        vision.num_states_of(num_tokens),
    )
    inputs, middle, output = _projector_sizes(vision)
    features = num_tokens * output
    of_others = deep_layers_of(vision) * features
    learns, made = model.trains_projector, num_tokens * middle
    passes = model.trains_tower or not isinstance(vision, ClipVision)
    moments = (
        of_others + features + made + learns * middle * output,
        of_others + 2 * made - learns * made,
        of_others - learns * made + learns * inputs * middle + passes * num_tokens * inputs,
        model.trains_tower * (num_states * (hidden + ffn) + hidden * ffn),
    )
    return max(moments) * model.dtype.num_bytes


def _projector_sizes(vision: VisionShape) -> tuple[int, int, int]:
    """Features that its two linear layers take and make."""
    match vision:
        case ClipVision():
            return vision.hidden_size, vision.output_size, vision.output_size
        case InternVision():
            return vision.merged_size, vision.output_size, vision.output_size
        case QwenVision() | Qwen3Vision():
            merged = vision.hidden_size * vision.patches_per_token
            return merged, merged, vision.output_size
        case _:
            assert_never(vision)


def _tower_bytes(vision: VisionShape, num_tokens: int, dtype: Dtype) -> int:
    width = dtype.num_bytes
    num_layers = vision.num_layers
    match vision:
        case ClipVision():
            num_layers = vision.num_read_layers
            of_state = vision.hidden_size * width
        case InternVision():
            of_state = vision.hidden_size * width if vision.final_norm else 0
        case QwenVision():
            of_state = _angle_bytes(vision) + FP32_BYTES * vision.hidden_size
        case Qwen3Vision():
            of_state = _angle_bytes(vision) + 4 * (INT64_BYTES + FP32_BYTES)
        case _:
            assert_never(vision)
    of_state += num_layers * _layer_bytes(vision, dtype)
    cast = 0 if dtype is Dtype.FP32 else vision.num_pixels(num_tokens) * width
    return vision.num_states_of(num_tokens) * of_state + cast


def _layer_bytes(vision: VisionShape, dtype: Dtype) -> int:
    """Of a state, in one layer."""
    hidden, ffn, width = vision.hidden_size, vision.ffn_hidden_size, dtype.num_bytes
    layer_norm, rms_norm = 2 * width, FP32_BYTES + 2 * width
    match vision:
        case ClipVision():
            of_hidden = 2 * layer_norm + 4 * width
            num_ffns = 3 if vision.activation == "quick_gelu" else 2
        case InternVision():
            norm = rms_norm if vision.rms_norms else layer_norm
            queries = rms_norm if vision.qk_norm else width
            of_hidden = 2 * norm + 2 * queries + 4 * width
            num_ffns = 2
        case QwenVision():
            of_hidden, num_ffns = 2 * rms_norm + 7 * width, 4
        case Qwen3Vision():
            of_hidden, num_ffns = 2 * layer_norm + 7 * width, 2
        case _:
            assert_never(vision)
    statistics = 4 * width + FP32_BYTES * vision.num_heads
    return of_hidden * hidden + num_ffns * ffn * width + statistics


def _projector_bytes(vision: VisionShape, num_tokens: int, model: RankModel) -> int:
    """CLIP's: the tower's states, and what goes into its activation and comes out of it.
    InternVL's: the states joined, before and after its norm, and the same two. Qwen2.5's: the
    states normed, before and after the norm's weight, and the same two. Qwen3's, of each merger:
    its norm's input, which inside a tower that learns a layer keeps, and output, and the same two.
    Where it does not learn it lets gradients pass, and keeps what goes into its norm and into its
    activation."""
    learns = model.trains_projector
    width = model.dtype.num_bytes
    states = vision.num_states_of(num_tokens) * vision.hidden_size
    match vision:
        case ClipVision():
            output = num_tokens * vision.output_size
            return (states + 2 * output if learns else output) * width
        case InternVision():
            joined, output = num_tokens * vision.merged_size, num_tokens * vision.output_size
            return (2 * joined + 2 * output if learns else joined + output) * width
        case QwenVision():
            return (4 * states if learns else states) * width
        case Qwen3Vision():
            inputs = 1 if model.trains_tower else 1 + len(vision.deep_layers)
            made = (1 + len(vision.deep_layers)) * (3 if learns else 1)
            return (inputs + made) * states * width
        case _:
            assert_never(vision)


def _angle_bytes(vision: QwenVision | Qwen3Vision) -> int:
    """Float32 cosines and sines of a state."""
    return 2 * vision.hidden_size // vision.num_heads * FP32_BYTES
