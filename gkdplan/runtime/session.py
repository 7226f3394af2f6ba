"""Everything that a rank opens once and uses in every step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.average import StudentAverage
from gkdplan.runtime.data.batch import MicroBatch, Row, micro_batches, row_share
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.data.deal import Deal
from gkdplan.runtime.data.examples import Example, Examples
from gkdplan.runtime.data.sight import images_of, pixels_of, positions_of_prompts
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.megatron.config import TORCH_DTYPES
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.metrics import MetricsLog
from gkdplan.runtime.phases import Phases
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.residency import Residency
from gkdplan.runtime.rollout.engine import RolloutEngine
from gkdplan.runtime.samples.taken import Samples
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.runtime.teacher.server import ServedTeacher
from gkdplan.runtime.teacher.server_samples import ServedSampler
from gkdplan.runtime.vision.images import Eyes
from gkdplan.runtime.vision.pixels import Pixels, PromptImage
from gkdplan.vocab import Role


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
        return ServedTeacher(self.plan, server, self.mesh, self.chat.eyes)

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
        """What the tower of a model takes of the examples' images; None where there are none, or no
        tower on this rank."""
        return pixels_of(examples, self.eyes_of(role), self.mesh.device)

    def positions(self, examples: Sequence[Example]) -> list[Tensor] | None:
        """Where the tokens of each prompt stand, [3, tokens], in models whose images have rows and
        columns."""
        return positions_of_prompts(examples, self.chat.eyes)

    def images_of(self, example: Example, role: Role) -> tuple[PromptImage, ...]:
        """What an engine that samples for a model takes of the example's images."""
        model = getattr(self.plan.models, role)
        return images_of(example, self.chat.eyes, TORCH_DTYPES[model.dtype])

    def model(self, role: Role) -> Sequence[Any]:
        return self.student if role is Role.STUDENT else self.teacher
