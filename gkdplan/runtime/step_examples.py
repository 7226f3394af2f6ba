"""Which rows a step learns from, and which of them are a rank's."""

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.data.order import Order, rows_of_rank
from gkdplan.runtime.session import Session
from gkdplan.vocab import Role


def examples_of_step(session: Session, step: int) -> list[Example]:
    """The global batch, in order."""
    plan, train = session.plan, session.train
    data = plan.data
    order = Order(train.file_sizes, plan.training.seed, data.shuffle, data.weights)
    return [train.examples[i] for i in order.rows_of_step(plan.batch.global_rows, step)]


def examples_of_rank(session: Session, step: int, role: Role = Role.STUDENT) -> list[Example]:
    """Those of this rank's place on the data axis of a model, micro-batch after micro-batch."""
    examples = examples_of_step(session, step)
    degrees: AxisDegrees = getattr(session.plan.layout, role)
    data_rank = degrees.place_of(session.mesh.rank).data
    micro_batches = rows_of_rank(
        range(len(examples)), data_rank, degrees.data, session.plan.batch.micro_rows
    )
    return [examples[i] for rows in micro_batches for i in rows]
