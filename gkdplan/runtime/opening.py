"""How a rank opens a run: its rows, both models, what the student has learnt so far, its logs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.average import open_average
from gkdplan.runtime.boards import open_boards
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.data.chat_of_plan import chat_of_plan
from gkdplan.runtime.data.order import require_global_batch
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.adapters import draw_adapters
from gkdplan.runtime.megatron.mesh import Mesh, init_mesh, init_teacher_mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.megatron.weights import (
    draw_output_head,
    draw_weights,
    load_output_head,
    load_weights,
)
from gkdplan.runtime.metrics import MetricsLog
from gkdplan.runtime.model_files import model_directory
from gkdplan.runtime.phases import Phases, Position
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.residency import (
    Residency,
    keep_teacher_on_host,
    let_student_rest,
)
from gkdplan.runtime.rows_of_run import log_bad_rows, read_rows, samples_of_run
from gkdplan.runtime.sampler import open_engine
from gkdplan.runtime.saved.checkpoint import restore
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.runtime.session import Session
from gkdplan.runtime.teacher.head import head_of_loss
from gkdplan.vocab import Role, Tier


def open_session(plan: RunPlan, start_step: int, position: Position, progress: Progress) -> Session:
    """Read the data, build both models, load their weights or the checkpoint of `start_step`.

    Needs `platform.prepare` and an initialised default process group. Raises UserError for what
    the user can mend.
    """
    mesh = init_mesh(plan.layout, plan.training.seed)
    teacher_mesh = init_teacher_mesh(plan.layout, mesh)
    directory = RunDirectory(Path(plan.training.output))
    student_source = _directory_of(Role.STUDENT, plan.models.student)
    chat = _chat(plan, student_source)
    meter = LiveBytes(mesh.device)
    limit = plan.ledger.limit_bytes
    if limit is not None:
        meter.limit(limit)
    phases = Phases(position, progress, meter, start_step + 1, limit)

    phases.enter("load")
    train, held_out = read_rows(plan, chat, student_source, progress)
    samples = samples_of_run(plan, train, chat, mesh.rank)
    require_global_batch(len(train.examples), plan.batch.global_rows)

    student = build_chunks(plan.models.student, plan.layout.student, mesh, trainable=True)
    _set_weights(student, plan.models.student, student_source, mesh, plan.training.seed)
    if plan.models.student.lora is not None:
        draw_adapters(student, plan.models.student, mesh, plan.training.seed)
    teacher, head = _open_teacher(plan, mesh, teacher_mesh, student)
    residency = Residency(mesh.device, meter)
    if plan.models.teacher.offload is Tier.HOST:
        keep_teacher_on_host(residency, plan.models.teacher, teacher, meter)
    trainer = Trainer(student, plan.optimizer, mesh, plan.training.num_steps)
    average = open_average(plan.models.teacher, student, teacher, trainer, residency, meter)
    if start_step:
        restore(directory.checkpoint(start_step), plan, trainer, average, mesh)
    let_student_rest(residency, plan, trainer, meter)
    meter.adopt(_resident_tensors([*student, *teacher], trainer))
    if head is not None:
        meter.adopt([head])
    engine = open_engine(plan, mesh, chat, student_source, student, residency, meter, progress.tell)

    metrics = _metrics(plan, directory, start_step, enabled=mesh.rank == 0)
    if not start_step:
        log_bad_rows(metrics, train, held_out)
    return Session(
        plan=plan,
        directory=directory,
        mesh=mesh,
        teacher_mesh=teacher_mesh,
        chat=chat,
        train=train,
        held_out=held_out,
        samples=samples,
        student=student,
        teacher=teacher,
        teacher_head=head,
        student_source=student_source,
        trainer=trainer,
        engine=engine,
        residency=residency,
        average=average,
        phases=phases,
        metrics=metrics,
        progress=progress,
    )


def _open_teacher(
    plan: RunPlan, mesh: Mesh, teacher_mesh: Mesh, student: Sequence[Any]
) -> tuple[Sequence[Any], Tensor | None]:
    """The teacher's chunks on this rank, and its output head where the student's loss is; neither
    of one behind a server."""
    model = plan.models.teacher
    if model.server is not None:
        return [], None
    if model.is_students_base:
        return student, head_of_loss(plan, mesh, student)
    teacher = build_chunks(model, plan.layout.teacher, teacher_mesh, trainable=False)
    source = _directory_of(Role.TEACHER, model)
    seed = plan.training.seed
    _set_weights(teacher, model, source, teacher_mesh, seed)
    head = head_of_loss(plan, mesh, teacher)
    if head is not None and not isinstance(head, Parameter):
        if model.init == "random":
            draw_output_head(head, model, mesh, seed)
        else:
            load_output_head(head, source, model, mesh)
    return teacher, head


def _set_weights(
    chunks: Sequence[Any], model: ModelPlan, source: Path, mesh: Mesh, seed: int
) -> None:
    if model.init == "random":
        draw_weights(chunks, model, mesh, seed)
    else:
        load_weights(chunks, source, model, mesh)


def _metrics(
    plan: RunPlan, directory: RunDirectory, start_step: int, *, enabled: bool
) -> MetricsLog:
    loggers = plan.training.loggers if enabled else ()
    boards = open_boards(loggers, directory.path, start_step, plan.name, plan.fingerprint)
    return MetricsLog(directory.path, boards, start_step, enabled=enabled)


def _chat(plan: RunPlan, student_source: Path) -> Chat:
    """A teacher's directory matters to models that see alone; one behind a server has none."""
    model = plan.models.teacher
    is_seen_here = model.shape.vision is not None and model.server is None
    teacher = _directory_of(Role.TEACHER, model) if is_seen_here else student_source
    return chat_of_plan(plan, student_source, teacher)


def _directory_of(role: Role, model: ModelPlan) -> Path:
    return model_directory(role, model.model, model.revision)


def _resident_tensors(models: Iterable[Any], trainer: Trainer) -> list[Any]:
    parameters = [parameter for chunk in models for parameter in chunk.parameters()]
    return parameters + trainer.resident_tensors()
