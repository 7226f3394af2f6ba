"""The code table: what each diagnostic means, why it is refused and what mends it."""

from gkdplan.codes import distillation, layout, memory, models, plan, running
from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    **plan.CODES,
    **models.CODES,
    **layout.CODES,
    **memory.CODES,
    **distillation.CODES,
    **running.CODES,
}

__all__ = ["CODES", "Code"]
