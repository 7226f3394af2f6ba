"""The code table: what each diagnostic means, why it is refused and what mends it."""

from gkdplan.codes import (
    commands,
    data,
    distillation,
    hosts,
    layout,
    machine,
    memory,
    models,
    plan,
    run_directory,
    running,
    samples,
    sampling_servers,
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
    **commands.CODES,
    **machine.CODES,
    **run_directory.CODES,
    **running.CODES,
    **sampling_servers.CODES,
    **hosts.CODES,
    **samples.CODES,
    **teacher_server.CODES,
    **vision.CODES,
}

__all__ = ["CODES", "Code"]
