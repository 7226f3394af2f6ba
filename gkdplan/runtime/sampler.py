"""The engine that samples the student's responses in the place of Megatron's own modules."""

import json
from functools import partial
from pathlib import Path

from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import model_shape
from gkdplan.runtime.megatron.student_files import student_config
from gkdplan.runtime.residency import Residency
from gkdplan.runtime.rollout.colocated import KV_CACHE, WEIGHTS, ColocatedEngine
from gkdplan.runtime.rollout.engine import RolloutEngine
from gkdplan.tensors import expected_tensors


def open_engine(
    plan: RunPlan, mesh: Mesh, chat: Chat, source: Path, residency: Residency, meter: LiveBytes
) -> RolloutEngine | None:
    """That of the plan, None where Megatron samples; collective over all ranks.

    `source` is the directory with the config.json that the student is made from; the engine's moves
    become its own.
    """
    engine, student = plan.sampling.vllm, plan.models.student
    if engine is None:
        return None
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    opened = ColocatedEngine(
        engine,
        student_config(config, student),
        dtype=student.dtype,
        seed=plan.training.seed,
        names=expected_tensors(model_shape(student)),
        vocab_size=plan.models.vocab_size,
        stop_ids=chat.stop_ids,
        rank=mesh.rank,
        world_size=mesh.world_size,
        device=mesh.device,
    )
    meter.adopt(opened.resident_tensors())
    for name in (WEIGHTS, KV_CACHE):
        residency.leave_to(name, partial(opened.apply, name))
    return opened
