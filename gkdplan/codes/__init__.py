"""The code table: what each diagnostic means, why it is refused and what mends it."""

from gkdplan.codes import (
    data,
    distillation,
    layout,
    memory,
    models,
    plan,
    running,
    samples,
    teacher_server,
    vision,
)
from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    **plan.CODES,
    **models.CODES,
    **layout.CODES,
    **memory.CODES,
    **distillation.CODES,
    **data.CODES,
    **running.CODES,
    **samples.CODES,
    **teacher_server.CODES,
    **vision.CODES,
}

__all__ = ["CODES", "Code"]
