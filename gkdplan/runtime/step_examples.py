"""Which rows a step learns from, and which of them are a rank's."""

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.data.order import rows_of_rank, rows_of_step
from gkdplan.runtime.session import Session
from gkdplan.vocab import Role


def examples_of_step(session: Session, step: int) -> list[Example]:
    """The global batch, in order."""
    plan, examples = session.plan, session.train.examples
    indices = rows_of_step(
        len(examples), plan.batch.global_rows, step, plan.training.seed, plan.data.shuffle
    )
    return [examples[i] for i in indices]


def examples_of_rank(session: Session, step: int, role: Role = Role.STUDENT) -> list[Example]:
    """Those of this rank's place on the data axis of a model, micro-batch after micro-batch."""
    examples = examples_of_step(session, step)
    degrees: AxisDegrees = getattr(session.plan.layout, role)
    data_rank = degrees.place_of(session.mesh.rank).data
    micro_batches = rows_of_rank(
        range(len(examples)), data_rank, degrees.data, session.plan.batch.micro_rows
    )
    return [examples[i] for rows in micro_batches for i in rows]
