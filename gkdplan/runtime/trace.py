"""The live bytes of a step, counted without weights, data or a second process.

The plan's models, loss and optimizer run as they do in a run, on fake tensors of rows that fill
the plan, on a rank of each class. What repeats itself byte for byte is not run to its end: of the
micro-batches those that are in flight at one time and one more, and two chunks of the loss. A short
step before the one that is counted makes what stays: Adam's moments and Megatron's buffers.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from gkdplan.runplan.layout import AxisDegrees, RankClass
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.data.batch import row_share
from gkdplan.runtime.megatron.fake_world import fake_world
from gkdplan.runtime.traced_step import build_step
from gkdplan.runtime.vision.blank_images import image_of_row, known_grids
from gkdplan.vocab import LossBackend, Phase

NUM_LOSS_CHUNKS = 2


def trace(
    plan: RunPlan, tell: Callable[[int, int], None] = lambda done, total: None
) -> dict[RankClass, dict[Phase, int]]:
    """Peak live bytes of the phases teacher, student and optimizer, for each class of ranks; `tell`
    hears how many classes are done, and of how many.

    `plan.layout.backend` must be "gloo", and no vllm on the ranks. A teacher's server is not asked.
    """
    peaks: dict[RankClass, dict[Phase, int]] = {}
    for rank_class in plan.layout.classes:
        tell(len(peaks), len(plan.layout.classes))
        peaks[rank_class] = _trace_class(plan, rank_class)
    return peaks


def _trace_class(plan: RunPlan, rank_class: RankClass) -> dict[Phase, int]:
    """The peaks on the rank where they are most.

    Ranks of the context axis, of either model, differ by the response tokens in their share of a
    row, and where the optimizer's state is divided over the data and context axes ranks differ by
    their pieces of it. Traced are a rank with the most tokens, of those the one that owns most,
    those of all that own most and whose update makes most, and the first, which sees the last keys.
    """
    ranks = range(*rank_class.ranks[0])
    fullest = _ranks_of_most_tokens(plan, plan.layout.student, ranks)
    first, owned = _trace_rank(plan, fullest[0])
    num_places = len(owned)

    def pieces(rank: int) -> list[int]:
        return owned[rank // plan.layout.student.tensor % num_places]

    others = {
        ranks[0],
        max(ranks, key=lambda rank: sum(pieces(rank))),
        max(ranks, key=lambda rank: _largest_update(pieces(rank))),
        max(fullest, key=lambda rank: sum(pieces(rank))),
    }
    if plan.layout.is_resharded:
        of_teacher = _ranks_of_most_tokens(plan, plan.layout.teacher, ranks)
        both = [rank for rank in of_teacher if rank in fullest]
        others |= {of_teacher[0], *both[:1]}
    peaks = [_trace_rank(plan, rank)[0] for rank in others - {fullest[0]}]
    return {phase: max(of_rank[phase] for of_rank in (first, *peaks)) for phase in first}


def _largest_update(pieces: list[int]) -> int:
    """Elements of what torch's AdamW makes at one time: two arrays as large as the piece that it
    updates, beside one as large as the piece before."""
    return max((2 * num + before for before, num in pairwise((0, *pieces))), default=0)


def _ranks_of_most_tokens(plan: RunPlan, degrees: AxisDegrees, ranks: range) -> list[int]:
    """By the response tokens of a row that fills the plan, in a model's share of it."""
    prompt = plan.data.max_length
    learnt = range(prompt - 1, prompt - 1 + plan.sampling.max_completion_length)
    shares = [row_share(degrees, context) for context in range(degrees.context)]
    num_tokens = [sum(p in learnt for p in share.places(learnt.stop + 1)) for share in shares]
    of_ranks = [num_tokens[degrees.place_of(rank).context] for rank in ranks]
    return [rank for rank, num in zip(ranks, of_ranks, strict=True) if num == max(of_ranks)]


def _trace_rank(plan: RunPlan, rank: int) -> tuple[dict[Phase, int], list[list[int]]]:
    """Peaks by phase, and the pieces that each place on the data axis owns. Without weights there
    is nothing to compile: a compiled loss is traced as eager's, which is priced alike."""
    objective = replace(plan.objective, loss_backend=LossBackend.EAGER)
    plan = replace(plan, objective=objective)
    num_labels = NUM_LOSS_CHUNKS * plan.objective.chunk_tokens
    vision = plan.models.student.shape.vision
    with (
        known_grids(vision, image_of_row(plan)),
        fake_world(plan.layout, rank, num_labels) as mesh,
    ):
        step = build_step(plan, mesh)
        with step.meter:
            step.warm_up()
            step.run()
        return step.peak_bytes, step.trainer.owned_pieces()
