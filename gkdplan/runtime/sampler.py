"""The engine that samples the student's responses in the place of Megatron's own modules."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gkdplan.families.tensors import expected_tensors
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.adapters import merged_tensors
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.residency import Residency
from gkdplan.runtime.rollout.asking import Vocabulary
from gkdplan.runtime.rollout.colocated import KV_CACHE, WEIGHTS, ColocatedEngine
from gkdplan.runtime.rollout.engine import RolloutEngine
from gkdplan.runtime.rollout.served import ServedEngine
from gkdplan.runtime.rollout.servers import servers_of, wanted_of
from gkdplan.runtime.student_config import files_beside, student_config


def open_engine(
    plan: RunPlan,
    mesh: Mesh,
    chat: Chat,
    source: Path,
    student: Sequence[Any],
    residency: Residency,
    meter: LiveBytes,
    tell: Callable[[str], None],
) -> RolloutEngine | None:
    """That of the plan, None where Megatron samples; collective over all ranks.

    `source` is the directory with the config.json that the student is made from, `student` its
    chunks on this rank; the engine's moves become its own.
    """
    if plan.sampling.refit_bucket_bytes and plan.sampling.server_urls:
        return _served(plan, mesh, chat, student, tell)
    if plan.sampling.vllm is not None:
        return _colocated(plan, mesh, chat, source, residency, meter)
    return None


def _served(
    plan: RunPlan, mesh: Mesh, chat: Chat, student: Sequence[Any], tell: Callable[[str], None]
) -> ServedEngine:
    shape = plan.models.student.shape
    return ServedEngine(
        servers=servers_of(plan),
        backend=plan.layout.backend,
        bucket_bytes=plan.sampling.refit_bucket_bytes,
        names=frozenset(expected_tensors(shape)),
        vocabulary=Vocabulary(plan.models.vocab_size, shape.vocab_size, chat.stop_ids),
        weights=lambda: merged_tensors(student, plan.models.student, mesh),
        wanted=wanted_of(plan),
        run=plan.fingerprint[:12],
        vision=shape.vision,
        rank=mesh.rank,
        tell=tell,
        patience_s=plan.sampling.server_patience_s,
    )


def _colocated(
    plan: RunPlan, mesh: Mesh, chat: Chat, source: Path, residency: Residency, meter: LiveBytes
) -> ColocatedEngine:
    engine, student = plan.sampling.vllm, plan.models.student
    assert engine is not None
    shape = student.shape
    opened = ColocatedEngine(
        engine,
        student_config(student, source),
        dtype=student.dtype,
        seed=plan.training.seed,
        names=expected_tensors(shape),
        vocab_size=plan.models.vocab_size,
        num_rows=shape.vocab_size,
        stop_ids=chat.stop_ids,
        rank=mesh.rank,
        world_size=mesh.world_size,
        device=mesh.device,
        vision=shape.vision,
        files=[] if shape.vision is None else files_beside(source),
    )
    meter.adopt(opened.resident_tensors())
    for name in (WEIGHTS, KV_CACHE):
        residency.leave_to(name, partial(opened.apply, name))
    return opened
