"""The student's chat as a run has it, for models that see with the eyes of both."""

from pathlib import Path

from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.data.chat import Chat, load_chat
from gkdplan.runtime.vision.images import Eyes, load_eyes, require_alike


def chat_of_plan(plan: RunPlan, student: Path, teacher: Path) -> Chat:
    """What makes tokens of the plan's rows; the two models lie in these directories.

    Raises UserError as `load_chat` and `load_eyes` do, and GK131 where the teacher would see
    something else.
    """
    return load_chat(student, _eyes(plan, student, teacher))


def _eyes(plan: RunPlan, student: Path, teacher: Path) -> Eyes | None:
    """The student's, through which both models see."""
    shapes = [model.shape.vision for model in (plan.models.student, plan.models.teacher)]
    if shapes[0] is None:
        return None
    assert plan.data.pictures is not None
    assert shapes[1] is not None
    eyes = load_eyes(student, shapes[0], plan.data.pictures)
    if teacher != student:
        require_alike(eyes, load_eyes(teacher, shapes[1], plan.data.pictures))
    return eyes
