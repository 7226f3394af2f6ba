"""Seconds of looking at the images of rows, whose towers are whole on every rank of a stage."""

from typing import assert_never

from gkdplan.planner.draft import Draft
from gkdplan.planner.timing.machine import Machine
from gkdplan.planner.timing.stage import Stage
from gkdplan.runplan.models import ModelPlan
from gkdplan.vision import ClipVision, InternVision, Qwen3Vision, QwenVision, VisionShape


def looking_s(draft: Draft, model: ModelPlan, machine: Machine, rows: int) -> float:
    """A forward of tower and projector over as many images as the ledger prices; of a tower that
    learns its backward too, twice as much. What a projector takes backward that alone learns is
    left out: a few hundredths of it."""
    vision = model.shape.vision
    if vision is None:
        return 0.0
    learns = model.freeze is not None and not model.freeze.vision
    of_row = tower_flops(vision, draft.image_tokens_of_row(model.shape))
    flops = rows * of_row * (3 if learns else 1)
    return machine.compute_s(flops, model.dtype)


def looking_of_stage_s(draft: Draft, stage: Stage) -> float:
    """Where the tower is."""
    if not stage.is_first:
        return 0.0
    return looking_s(draft, stage.model, stage.machine, stage.rows)


def tower_flops(vision: VisionShape, num_tokens: int) -> int:
    """Of the images of one row: two for each element of a matrix and state, and of attention two
    times two for each pair of states and coordinate. An image of Qwen's is taken to be as large as
    all of them; a state of a tile is one of its patches and the class token."""
    num_states, hidden = vision.num_states_of(num_tokens), vision.hidden_size
    match vision:
        case ClipVision():
            num_layers = vision.num_read_layers
            layer = 4 * hidden**2 + 2 * hidden * vision.ffn_hidden_size
            patch = 3 * vision.patch_size**2 * hidden
            seen = num_layers * vision.num_states
            projector = num_tokens * vision.output_size * (hidden + vision.output_size)
        case InternVision():
            num_layers = vision.num_layers
            layer = 4 * hidden**2 + 2 * hidden * vision.ffn_hidden_size
            patch = 3 * vision.patch_size**2 * hidden
            seen = num_layers * vision.num_states
            projector = num_tokens * vision.output_size * (vision.merged_size + vision.output_size)
        case Qwen3Vision():
            num_layers = vision.num_layers
            layer = 4 * hidden**2 + 2 * hidden * vision.ffn_hidden_size
            patch = vision.numbers_per_patch * hidden
            seen = num_layers * num_states
            merged = vision.patches_per_token * hidden
            num_merged = (1 + len(vision.deep_layers)) * num_tokens
            projector = num_merged * merged * (merged + vision.output_size)
        case QwenVision():
            num_layers, num_full = vision.num_layers, len(vision.full_layers)
            layer = 4 * hidden**2 + 3 * hidden * vision.ffn_hidden_size
            patch = vision.numbers_per_patch * hidden
            window = (vision.window_size // vision.patch_size) ** 2
            seen = num_full * num_states + (num_layers - num_full) * min(window, num_states)
            merged = vision.patches_per_token * hidden
            projector = num_tokens * merged * (merged + vision.output_size)
        case _:
            assert_never(vision)
    return 2 * (num_states * (patch + num_layers * layer + 2 * hidden * seen) + projector)
