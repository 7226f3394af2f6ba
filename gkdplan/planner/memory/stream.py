"""What travels where the teacher's weights visit the device layer by layer."""

from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.rank import rank_of_class
from gkdplan.planner.memory.teacher import body_bytes


def streamed_bytes(draft: Draft) -> int:
    """For one micro-batch, on the rank where it is most: all of the teacher that the rank has, but
    its output head; 0 where it is not streamed."""
    if not draft.models.teacher.stream:
        return 0
    return max(body_bytes(rank_of_class(draft, ranks)) for ranks in draft.layout.classes)
