"""What plan and facts decide before memory is priced: the nouns of a run plan but its ledger."""

from dataclasses import dataclass, fields

from gkdplan.planner.layout import token_multiple
from gkdplan.planner.models import round_up
from gkdplan.planner.zigzag import most_response_tokens
from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.layout import AxisDegrees, Layout
from gkdplan.runplan.model import (
    BatchPlan,
    DataPlan,
    Inputs,
    Objective,
    OptimizerPlan,
    RunPlan,
    Training,
)
from gkdplan.runplan.models import Models
from gkdplan.runplan.sampling import Sampling
from gkdplan.runplan.steps import Draw
from gkdplan.shape import ModelShape
from gkdplan.vocab import Engine, Role, Source


@dataclass(frozen=True, slots=True)
class Draft:
    """Fields as in `runplan.model.RunPlan`."""

    name: str
    inputs: Inputs
    models: Models
    layout: Layout
    objective: Objective
    sampling: Sampling
    data: DataPlan
    batch: BatchPlan
    optimizer: OptimizerPlan
    training: Training

    @property
    def rows_per_rank(self) -> int:
        """Rows of one global batch that one data rank works on."""
        return self.batch.num_micro_batches * self.batch.micro_rows

    def num_micro_batches(self, degrees: AxisDegrees) -> int:
        """Of a global batch on one data rank of a model."""
        return max(1, self.batch.global_rows // (self.batch.micro_rows * degrees.data))

    def sequence_tokens(self, degrees: AxisDegrees) -> int:
        """Tokens of the longest row, padded so that every axis that splits rows can do so."""
        longest = self.data.max_length + self.sampling.max_completion_length
        return round_up(longest, token_multiple(degrees))

    def image_tokens_of_row(self, shape: ModelShape) -> int:
        """Of as many images as rows show to a model of this shape, and as a prompt has room for."""
        if shape.vision is None or self.data.pictures is None:
            return 0
        return shape.vision.most_tokens(self.data.pictures.number, self.data.max_length)

    def response_tokens(self, degrees: AxisDegrees, ranks: tuple[int, int] | None = None) -> int:
        """Of a row that fills the plan, on the rank of the context axis that has most of them: of
        the run `ranks` of rank numbers, or of all."""
        return most_response_tokens(
            self.data.max_length,
            self.sampling.max_completion_length,
            self.sequence_tokens(degrees),
            degrees.context,
            None if ranks is None else degrees.contexts_of(*ranks),
        )


def draft_of(run_plan: RunPlan) -> Draft:
    """What a run plan was priced from."""
    return Draft(**{field.name: getattr(run_plan, field.name) for field in fields(Draft)})


def sampling_roles(draft: Draft) -> tuple[tuple[Source, Role], ...]:
    """Who samples responses in some step, with the source that such a step has: a teacher whose
    samples are in a file does not."""
    objective = draft.objective
    shares = share_of_sources(Draw(draft.training.seed, objective.lmbda, objective.seq_kd))
    roles = [(Source.STUDENT, Role.STUDENT)]
    if draft.data.samples is None:
        roles.append((Source.TEACHER, Role.TEACHER))
    return tuple((source, role) for source, role in roles if shares[source] > 0)


def engine_of(draft: Draft, role: Role) -> Engine:
    """What samples the responses of one of the models. The plan's engine holds the student's
    weights only: a teacher samples where it is, by Megatron's own generation from the weights that
    the ranks have anyway, or behind its server of vllm."""
    if role is Role.STUDENT:
        return draft.sampling.engine
    return Engine.MEGATRON if draft.models.teacher.server is None else Engine.VLLM
