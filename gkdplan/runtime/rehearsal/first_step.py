"""The first step of a plan, up to its update."""

from pathlib import Path

import torch.distributed as dist

from gkdplan.runplan.codec import decode
from gkdplan.runplan.rehearsal import Claim
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.megatron.adapters import draw_adapters
from gkdplan.runtime.megatron.gradients import full_gradients
from gkdplan.runtime.megatron.mesh import close_mesh
from gkdplan.runtime.opening import open_session
from gkdplan.runtime.phases import Position
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.rehearsal.outcome import Outcome
from gkdplan.vision import InternVision, TiledVision, VisionShape


def rehearse(locks: dict[str, str], home: str, position: Position) -> None:
    """The first step of every lock, on the ranks of the default process group; its outcome is
    `home`/NAME.rank_R.safetensors."""
    for name, lock in locks.items():
        file = Path(home) / f"{name}.rank_{dist.get_rank()}.safetensors"
        _outcome(lock, position, is_own_teacher=name == Claim.ITSELF).save(file)


def _outcome(lock: str, position: Position, *, is_own_teacher: bool) -> Outcome:
    """Adapters begin with a B of zero, where A has no gradient: but for a student that is its own
    teacher both are drawn."""
    run_plan = decode(lock)
    student = run_plan.models.student
    close_mesh()
    Path(run_plan.training.output).mkdir(parents=True, exist_ok=True)
    silent = Progress(run_plan, 0, shown=False, terminal=False)
    session = open_session(run_plan, 0, position, silent)
    if student.lora is not None and not is_own_teacher:
        seed = run_plan.training.seed
        draw_adapters(session.student, student, session.mesh, seed, both=True)
    loss = Executor(session).learn(1).loss
    whole = full_gradients(session.trainer, student, session.mesh)
    vision = student.shape.vision
    return Outcome(loss, {name: g.clone() for name, g in whole if not _is_unseen(name, vision)})


def _is_unseen(name: str, vision: VisionShape | None) -> bool:
    """The bias of a tower's keys that neither turn nor are normed adds one number to all scores of
    a query, which a softmax does not see: its gradient is what rounding leaves of nothing."""
    if not isinstance(vision, TiledVision) or (isinstance(vision, InternVision) and vision.qk_norm):
        return False
    return name.startswith(vision.prefixes) and name.endswith("k_proj.bias")
