"""Bytes of images on a rank with a tower: what waits of them, and what passes as it looks at them.

Nothing of a frozen tower is kept for the backward, nor of a frozen projector.
"""

from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.loss import INT64_BYTES
from gkdplan.planner.memory.model import RankModel
from gkdplan.shape import ModelShape
from gkdplan.vision import ClipVision, priced

FP32_BYTES = 4


def pixel_bytes(shape: ModelShape, num_images: int) -> int:
    """Of all images of a rank's rows: float32 pixels, and for each feature its place and number
    (runtime/vision/pixels.py)."""
    vision = priced(shape.vision)
    if vision is None:
        return 0
    of_image = FP32_BYTES * vision.pixels_per_image
    return num_images * (of_image + 2 * INT64_BYTES * vision.tokens_per_image)


def looking_bytes(model: RankModel, batch: Batch, num_images: int) -> int:
    """The most that is alive in tower and projector, or where the features join the embedding."""
    vision = priced(model.shape.vision)
    if vision is None or num_images == 0:
        return 0
    joined = 2 * batch.num_tokens * model.shape.hidden_size
    features = num_images * vision.tokens_per_image * vision.output_size
    passing = max(tower_elements(vision, num_images), features + joined)
    return passing * model.dtype.num_bytes


def kept_bytes(model: RankModel, num_images: int) -> int:
    """What a projector that learns keeps of a micro-batch for its backward: the tower's states, and
    what goes into its activation and comes out of it."""
    vision = priced(model.shape.vision)
    if vision is None or not model.trains_projector:
        return 0
    states = vision.num_states * vision.hidden_size
    activated = 2 * vision.tokens_per_image * vision.output_size
    return num_images * (states + activated) * model.dtype.num_bytes


def tower_elements(vision: ClipVision, num_images: int) -> int:
    """Of a layer's MLP its width three times (for QuickGELU, x sigmoid(1.702 x), twice more)
    beside the layer's input, the sum with attention and the norm of it; of attention the layer's
    input, its norm, queries, keys, values and two outputs; of the projector its input and two
    outputs of one of its layers."""
    num_states = num_images * vision.num_states
    mlp = 3 * vision.hidden_size + 3 * vision.ffn_hidden_size
    attention = 7 * vision.hidden_size
    projector = vision.hidden_size + 2 * vision.output_size
    return num_states * max(mlp, attention, projector)
