"""Hidden states that the dispatchers of experts hold after a backward.

A dispatcher keeps its latest probabilities until its next forward, and with them the graph that
made them (megatron/core/transformer/moe/token_dispatcher.py). What the graph saved is freed by its
backward; its leaves and their gradients are not. Leaves are a stage's received input and, where
activations are made again, the input of what is made again.
"""

from gkdplan.planner.memory.batch import Batch, boundary_bytes
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.recompute import inputs_and_whole_layers, layers_of_unit
from gkdplan.planner.memory.stage import Chunk


def held_bytes(model: RankModel, batch: Batch) -> int:
    """Of the latest micro-batch, on every layer of the stage; 0 for a dense model."""
    if model.experts is None:
        return 0
    first, *others = model.stage.chunks
    has_leaf = not model.stage.is_first or not model.trains_base
    num_held = _num_held(model, first, has_leaf=has_leaf)
    num_held += sum(_num_held(model, chunk, has_leaf=True) for chunk in others)
    return num_held * boundary_bytes(model, batch)


def held_in_next_forward_bytes(model: RankModel, batch: Batch, num_passed: int) -> int:
    """What is left of it in the next forward of the stage's only chunk, whose first `num_passed`
    layers have let go, and not its last."""
    if model.experts is None:
        return 0
    (chunk,) = model.stage.chunks
    has_leaf = not model.stage.is_first or not model.trains_base
    num_held = _num_held(model, chunk, has_leaf=has_leaf, num_passed=num_passed)
    return num_held * boundary_bytes(model, batch)


def _num_held(model: RankModel, chunk: Chunk, *, has_leaf: bool, num_passed: int = 0) -> int:
    """Inputs and gradients of inputs that a chunk's dispatchers hold.

    Where units come before layers that are kept whole, the chunk's input is that of its first unit.
    Layers after each other hold leaves of their own where each is made again, and else one.
    """
    if model.recompute.granularity == "full":
        num_units, num_whole = inputs_and_whole_layers(model, chunk.num_layers)
        if num_units:
            first_whole = chunk.num_layers - num_whole
            is_held = has_leaf and chunk.num_with_experts(first_whole) > 0
            return 2 * _num_units_held(model, chunk, num_units, num_passed) + is_held
    elif "moe" in model.recompute.modules:
        return 2 * chunk.num_with_experts(num_passed)
    return 2 if has_leaf and chunk.num_with_experts(num_passed) else 0


def _num_units_held(model: RankModel, chunk: Chunk, num_units: int, num_passed: int) -> int:
    """Units that have experts in a layer which is not passed."""
    length = layers_of_unit(model)
    if not chunk.dense_layers:
        return max(0, num_units - num_passed // length)
    holding = {
        layer // length
        for layer in range(num_passed, chunk.num_layers)
        if layer not in chunk.dense_layers
    }
    return sum(unit in holding for unit in range(num_units))
