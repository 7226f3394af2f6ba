"""A run's session on the ranks of `gloo_ranks`, which tells nobody how far it is."""

from pathlib import Path

from gkdplan.runplan.codec import decode
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.mesh import close_mesh
from gkdplan.runtime.opening import open_session
from gkdplan.runtime.phases import Position
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.session import Session


def open_silently(lock: str, start_step: int = 0) -> Session:
    """The session of the run plan in `lock`; it replaces the mesh of an earlier one."""
    run_plan = decode(lock)
    platform.prepare(run_plan.layout.backend)
    close_mesh()
    Path(run_plan.training.output).mkdir(exist_ok=True)
    silent = Progress(run_plan, start_step, shown=False, terminal=False)
    return open_session(run_plan, start_step, Position(start_step, "start"), silent)
