"""Everything that a rank opens once and uses in every step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.model import ModelPlan, RunPlan
from gkdplan.runplan.steps import Draw
from gkdplan.runtime.average import StudentAverage, open_average
from gkdplan.runtime.boards import open_boards
from gkdplan.runtime.data.batch import MicroBatch, Row, collate, micro_batches, row_share
from gkdplan.runtime.data.chat import Chat, load_chat
from gkdplan.runtime.data.deal import Deal
from gkdplan.runtime.data.examples import Example, Examples, load_examples
from gkdplan.runtime.data.order import require_global_batch
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.adapters import draw_adapters
from gkdplan.runtime.megatron.mesh import Mesh, init_mesh, init_teacher_mesh
from gkdplan.runtime.megatron.model import TORCH_DTYPES, build_chunks
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
from gkdplan.runtime.rollout.engine import RolloutEngine
from gkdplan.runtime.sampler import open_engine
from gkdplan.runtime.samples.taken import Samples, take_samples
from gkdplan.runtime.saved.checkpoint import restore
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.runtime.teacher.head import head_of_loss
from gkdplan.runtime.teacher.server import ServedTeacher
from gkdplan.runtime.teacher.server_samples import ServedSampler
from gkdplan.runtime.vision.images import Eyes, load_eyes, require_alike
from gkdplan.runtime.vision.pixels import Pixels, PromptImage
from gkdplan.runtime.vision.positions import positions_of
from gkdplan.runtime.vision.prompted import images_of_prompt
from gkdplan.vocab import Role, Source, Tier


@dataclass(frozen=True, slots=True)
class Session:
    """A rank's open run. A model is its chunks on this rank, in the order of its layers: Megatron's
    GPTModels, without any wrapper. `mesh` is the student's. `engine` samples the student's
    responses, None where its own modules do; `average` is the teacher's weights where they are the
    student's average."""

    plan: RunPlan
    directory: RunDirectory
    mesh: Mesh
    teacher_mesh: Mesh
    chat: Chat
    train: Examples
    held_out: Examples
    samples: Samples
    student: Sequence[Any]
    teacher: Sequence[Any]
    teacher_head: Tensor | None
    student_source: Path
    trainer: Trainer
    engine: RolloutEngine | None
    residency: Residency
    average: StudentAverage | None
    phases: Phases
    metrics: MetricsLog
    progress: Progress

    @property
    def is_main(self) -> bool:
        return self.mesh.rank == 0

    @property
    def served_teacher(self) -> ServedTeacher:
        """The teacher of a plan that has it behind servers."""
        server = self.plan.models.teacher.server
        assert server is not None, "this teacher is on the ranks"
        return ServedTeacher(self.plan, server, self.mesh)

    @property
    def served_sampler(self) -> ServedSampler:
        """The servers of such a teacher, as what samples."""
        served, mesh = self.served_teacher, self.mesh
        return ServedSampler(
            self.plan, served.server, self.chat.stop_ids, mesh.rank, mesh.world_size
        )

    @property
    def distillation(self) -> Distillation:
        plan = self.plan
        return Distillation(
            self.teacher,
            plan.objective,
            plan.models.vocab_size,
            self.mesh.tensor_group,
            self.teacher_head,
            plan.models.teacher.shape.logit_softcap,
        )

    def micro_batches(self, rows: Sequence[Row]) -> list[MicroBatch]:
        """This rank's share of rows that it trains on or evaluates, on its device.

        All have one shape where stages hand them on.
        """
        batches = micro_batches(
            rows,
            self.plan.batch.micro_rows,
            self.chat.pad_id,
            row_share(self.plan.layout.student, self.mesh.context_rank),
            self.eyes_of(Role.STUDENT),
            one_width=self.mesh.pipeline_size > 1,
        )
        return [batch.to(self.mesh.device) for batch in batches]

    def deal(self, role: Role, batches: Sequence[Sequence[Row]]) -> list[MicroBatch]:
        """This rank's share of the micro-batches of all ranks, for one of the models, on its
        device."""
        degrees = getattr(self.plan.layout, role)
        deal = Deal(degrees, batches)
        dealt = deal.micro_batches(self.mesh.rank, self.chat.pad_id, self.eyes_of(role))
        return [batch.to(self.mesh.device) for batch in dealt]

    def eyes_of(self, role: Role) -> Eyes | None:
        """Those of a model that sees, open where its first stage is on this rank."""
        mesh, eyes = self.mesh if role is Role.STUDENT else self.teacher_mesh, self.chat.eyes
        return eyes if eyes is None or mesh.pipeline_rank == 0 else eyes.closed

    def look(self, role: Role, examples: Sequence[Example]) -> Pixels | None:
        """What the tower of a model takes of the examples' images, which stand in their prompts as
        if these were one sequence; None where there are no images, or no tower on this rank."""
        eyes = self.eyes_of(role)
        if eyes is None or not eyes.are_open:
            return None
        tokens = [token for example in examples for token in example.prompt]
        shown = tuple(one for example in examples for one in example.shown)
        pixels = collate([Row(tokens, (), shown)], self.chat.pad_id, eyes=eyes).sight.pixels
        return None if pixels is None else pixels.to(self.mesh.device)

    def positions(self, examples: Sequence[Example]) -> list[Tensor] | None:
        """Where the tokens of each prompt stand, [3, tokens], in models whose images have rows and
        columns."""
        eyes = self.chat.eyes
        if eyes is None or eyes.shape.num_position_axes == 1:
            return None
        return [positions_of(e.prompt, e.shown, eyes.shape.image_token_id) for e in examples]

    def images_of(self, example: Example) -> tuple[PromptImage, ...]:
        """What the student's engine takes of the example's images."""
        if not example.shown:
            return ()
        assert self.chat.eyes is not None
        dtype = TORCH_DTYPES[self.plan.models.student.dtype]
        return tuple(images_of_prompt(example.prompt, example.shown, self.chat.eyes, dtype))

    def model(self, role: Role) -> Sequence[Any]:
        return self.student if role is Role.STUDENT else self.teacher


def open_session(plan: RunPlan, start_step: int, position: Position, progress: Progress) -> Session:
    """Read the data, build both models, load their weights or the checkpoint of `start_step`.

    Needs `platform.prepare` and an initialised default process group. Raises UserError for what
    the user can mend.
    """
    mesh = init_mesh(plan.layout, plan.training.seed)
    teacher_mesh = init_teacher_mesh(plan.layout, mesh)
    directory = RunDirectory(Path(plan.training.output))
    student_source = _directory_of(Role.STUDENT, plan.models.student)
    chat = load_chat(student_source, _open_eyes(plan, student_source))
    meter = LiveBytes(mesh.device)
    limit = plan.ledger.limit_bytes
    if limit is not None:
        meter.limit(limit)
    phases = Phases(position, progress, meter, start_step + 1, limit)

    phases.enter("load")
    data, max_completion = plan.data, plan.sampling.max_completion_length
    server = plan.models.teacher.server
    train = load_examples(
        data.train,
        chat,
        data,
        max_completion,
        needs_responses=_learns_from_dataset(plan),
        server=server,
    )
    held_out = load_examples(data.eval, chat, data, max_completion, key="data.eval", server=server)
    for line in train.notes + held_out.notes:
        progress.tell(line)
    samples = take_samples(data.samples, train.examples, max_completion, plan.models.vocab_size)
    require_global_batch(len(train.examples), plan.batch.global_rows)

    student = build_chunks(plan.models.student, plan.layout.student, mesh, trainable=True)
    _set_weights(student, plan.models.student, student_source, mesh, plan.training.seed)
    if plan.models.student.lora is not None:
        draw_adapters(student, plan.models.student, mesh, plan.training.seed)
    teacher, head = ([], None) if server else _open_teacher(plan, mesh, teacher_mesh, student)
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
        _log_bad_rows(metrics, train, held_out)
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
    """The teacher's chunks on this rank, and its output head where the student's loss is."""
    model = plan.models.teacher
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


def _log_bad_rows(metrics: MetricsLog, *splits: Examples) -> None:
    for split in splits:
        if split.bad_rows:
            words = f"{len(split.bad_rows):,} rows of `{split.key}` are left out"
            first = split.bad_rows[0].message
            metrics.log_warning(step=0, code="GK490", message=f"{words}: the first, {first}")


def _open_eyes(plan: RunPlan, student_source: Path) -> Eyes | None:
    """The student's, through which both models see. Raises UserError (GK131) where the teacher's
    would see something else."""
    student, teacher = plan.models.student, plan.models.teacher
    if student.shape.vision is None:
        return None
    assert plan.data.pictures is not None
    assert teacher.shape.vision is not None
    eyes = load_eyes(student_source, student.shape.vision, plan.data.pictures)
    source = _directory_of(Role.TEACHER, teacher)
    if source != student_source:
        of_teacher = load_eyes(source, teacher.shape.vision, plan.data.pictures)
        require_alike(eyes, of_teacher)
    return eyes


def _directory_of(role: Role, model: ModelPlan) -> Path:
    return model_directory(role, model.model, model.revision)


def _learns_from_dataset(plan: RunPlan) -> bool:
    draw = Draw(plan.training.seed, plan.objective.lmbda, plan.objective.seq_kd)
    return share_of_sources(draw)[Source.DATASET] > 0


def _resident_tensors(models: Iterable[Any], trainer: Trainer) -> list[Any]:
    parameters = [parameter for chunk in models for parameter in chunk.parameters()]
    return parameters + trainer.resident_tensors()
