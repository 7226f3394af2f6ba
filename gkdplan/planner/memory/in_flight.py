"""What Megatron's schedules hold of micro-batches that are under way on a stage."""

from functools import lru_cache

from gkdplan.planner.memory.held import Held, HeldAt
from gkdplan.planner.memory.interleaved import Interleaved
from gkdplan.planner.memory.stage import Stage

NUM_GROUPS = 4
"""Of as many micro-batches as stages, in which an interleaved schedule begins, repeats itself and
ends."""


def held_in_training(stage: Stage, num_micro_batches: int, *, trains_base: bool) -> HeldAt:
    """At the moments that can be the student's peak."""
    if stage.is_interleaved:
        num = min(num_micro_batches, NUM_GROUPS * stage.num_stages)
        return _interleaved(
            Interleaved(stage.index, stage.num_stages, stage.num_chunks, num, stage.is_mixed)
        )
    return _one_by_one(stage, num_micro_batches, trains_base=trains_base)


def num_held_in_forward(stage: Stage, num_micro_batches: int) -> int:
    """Hidden states that a schedule without backward holds beside those of the micro-batch under
    way in the stage's last chunk: of the one before the output and, where a stage also receives,
    the input. Layers add their residuals with gradients on, so that an output that is not emptied
    or dropped keeps the input that it was made from (megatron/core/transformer/
    transformer_layer.py, bias_dropout_add_exec_handler).

    Interleaved it is that input alone, and that of the latest forward of each other chunk; the
    model's first chunk receives none, and the output of its last is dropped.
    """
    if stage.is_interleaved:
        return stage.num_chunks - (stage.is_first or stage.is_last)
    if num_micro_batches == 1:
        return 0
    sends, receives = not stage.is_last, not stage.is_first
    return sends + (sends and receives)


def num_chunks_in_flight(stage: Stage, num_micro_batches: int) -> int:
    """Chunks whose forward is done and whose backward is not, at most.

    1F1B with p stages: min(M, p - i). Interleaved with v chunks a stage, in groups of G = p
    micro-batches: min(M v, 2 (p - i - 1) + (v - 1) G + 1). Source:
    megatron/core/pipeline_parallel/schedules.py, get_pp_rank_microbatches.
    """
    held = held_in_training(stage, num_micro_batches, trains_base=True)
    return max(at.num_chunks for at in held.backward)


def _one_by_one(stage: Stage, num_micro_batches: int, *, trains_base: bool) -> HeldAt:
    """1F1B, or one micro-batch after the other where there is one stage.

    A backward holds the gradient of the input of the micro-batch before, and the forward after it
    also that input, where a frozen embedding made it, and what was received for the next backward.
    """
    num = min(num_micro_batches, stage.num_stages - stage.index)
    is_followed = num_micro_batches > num
    gradient = num_micro_batches > 1 and not stage.is_first
    embedded = 2 if stage.is_first and not trains_base else 0
    before = (not stage.is_last) + (gradient or embedded) if is_followed else 0
    num_inputs = 0 if stage.is_first else num
    forward = frozenset({Held(num, num_inputs, gradient + before)})
    backward = frozenset({Held(num, num_inputs, int(gradient))})
    return HeldAt(
        forward=forward,
        embedded=forward if stage.is_first else frozenset(),
        loss=forward if stage.is_last else frozenset(),
        backward=backward,
        embedding=backward if stage.is_first else frozenset(),
    )


@lru_cache(maxsize=4096)
def _interleaved(schedule: Interleaved) -> HeldAt:
    forwards, backwards = [*schedule.forwards()], [*schedule.backwards()]
    last = schedule.num_chunks - 1 if schedule.is_last else None
    first = 0 if schedule.is_first else None
    return HeldAt(
        forward=frozenset(held for _, held in forwards),
        embedded=frozenset(held for chunk, held in forwards if chunk == first),
        loss=frozenset(held for chunk, held in forwards if chunk == last),
        backward=frozenset(held for _, held in backwards),
        embedding=frozenset(held for chunk, held in backwards if chunk == first),
    )
