"""Bytes of the eyes of a vllm engine on one of its tensor ranks, as vllm 0.32 lays them out.

T the engine's tensor degree, w bytes of an element. The linear layers of tower and projector are
divided between the ranks, of InternVL those of the tower's MLPs only; all else is whole on each.
"""

from collections.abc import Iterator
from math import prod

from gkdplan.planner.memory.engine import EngineModel
from gkdplan.planner.memory.vision import tower_bytes
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.vision import ClipVision, InternVision, VisionShape, deep_layers_of
from gkdplan.vision.tensors import Shapes

MATRIX = 2
POSITIONS = "pos"
"""In the names of tables of positions: position_embedding, pos_embed."""
SUMMED = ("out_proj", "attn.proj", "fc2", "down_proj", "linear_2", "mlp.2")
"""Linear layers whose outputs are sums over the ranks (RowParallelLinear)."""


def eye_weight_bytes(model: EngineModel, engine: VllmPlan) -> int:
    """Tower and projector, and the rows in which a tower that speaks to layers leaves what it says
    of a forward's tokens (vllm/model_executor/models/qwen3_vl.py, deepstack_input_embeds)."""
    vision = model.shape.vision
    if vision is None:
        return 0
    elements = sum(_elements(vision, model.tensor))
    said = deep_layers_of(vision) * engine.max_num_batched_tokens * model.shape.hidden_size
    return (elements + said) * model.dtype.num_bytes


def seeing_bytes(model: EngineModel, engine: VllmPlan, forward: int) -> int:
    """The most that passes beside the features of images, which are kept: the decoder's `forward`,
    or before it a look at as many images as one forward may hold, with their pixels; the tower is
    priced as Megatron's own generation has it, whole on every rank."""
    vision = model.shape.vision
    if vision is None:
        return forward
    tokens, width = _tokens_at_once(engine), model.dtype.num_bytes
    features = (1 + deep_layers_of(vision)) * tokens * vision.output_size * width
    pixels = vision.num_pixels(tokens) * width
    return features + max(forward, pixels + tower_bytes(vision, tokens, model.dtype))


def waiting_bytes(model: EngineModel, engine: VllmPlan, rows: int) -> int:
    """The pixels of all `rows` that are asked for, in host memory."""
    vision = model.shape.vision
    if vision is None:
        return 0
    return rows * vision.num_pixels(engine.prompt_image_tokens) * model.dtype.num_bytes


def _tokens_at_once(engine: VllmPlan) -> int:
    """Of images that are looked at in one forward, and of those that are kept."""
    return min(engine.encoder_tokens, engine.max_num_seqs * engine.prompt_image_tokens)


def _elements(vision: VisionShape, tensor: int) -> Iterator[int]:
    """Of each tensor of a rank."""
    shapes = vision.tensors()
    for name, shape in shapes.items():
        if not isinstance(vision, ClipVision) or _is_made(vision, name):
            is_whole = isinstance(vision, InternVision) and ".mlp." not in name
            is_divided = not is_whole and _is_divided(name, shapes)
            yield prod(shape) // (tensor if is_divided else 1)


def _is_divided(name: str, shapes: Shapes) -> bool:
    """Matrices are, but tables of positions; so are the biases of those whose outputs are."""
    layer, _, kind = name.rpartition(".")
    is_matrix = len(shapes.get(f"{layer}.weight", ())) == MATRIX and POSITIONS not in layer
    return is_matrix and (kind == "weight" or not layer.endswith(SUMMED))


def _is_made(vision: ClipVision, name: str) -> bool:
    """Of a layer whose states nothing takes, and of the norm after the last, there is nothing
    (vllm/model_executor/models/clip.py, num_hidden_layers_override, require_post_norm)."""
    _, is_of_layer, inner = name.partition("encoder.layers.")
    if is_of_layer:
        return int(inner.split(".")[0]) < vision.feature_layer % (vision.num_layers + 1)
    return "post_layernorm" not in name
