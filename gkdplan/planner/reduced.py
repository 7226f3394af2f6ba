"""A plan at a size that any machine runs: the same axes, over small models with the same parts.

What changes no gradient is left out: sampling, where the optimizer's state waits, and a teacher's
server, in whose place a small teacher gives its likeliest ids. So is the loss that balances the
load of experts: it is one of micro-batches, which another layout or split makes of other rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm

from gkdplan.facts.model import Facts
from gkdplan.planner.layout import teacher_parallel
from gkdplan.planner.lora import lora_of
from gkdplan.planner.models import student_shape, teacher_shape
from gkdplan.planner.reduced_shape import LARGEST_DEGREE, reduced_axes, reduced_shape
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import RunPlan
from gkdplan.shape import ModelShape
from gkdplan.spec.learning import Batch, Data, Distill, Generation, Run
from gkdplan.spec.models import Lora, Parallel, Recompute, Student
from gkdplan.spec.plan import Cluster, Plan
from gkdplan.vocab import Dtype, Engine, LossBackend, Tier

MAX_RANKS = 8
"""A larger world is made smaller."""
MICRO_ROWS = 2
PROMPT_TOKENS, RESPONSE_TOKENS = 24, 12
IMAGE_TOKENS = 72
"""More than the images of a row take of a prompt, which is never cut where it has some."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """`plan` still names the large models, whose small shapes are here."""

    plan: Plan
    student: ModelShape
    teacher: ModelShape


def reduce_plan(plan: Plan, facts: Facts, run_plan: RunPlan) -> Reduced:
    """The small plan of one that compiles to `run_plan`."""
    num_ranks, largest = _world(run_plan)
    shapes = student_shape(plan, facts), teacher_shape(plan, facts)
    planned = plan.student.parallel, teacher_parallel(plan)
    axes = [
        reduced_axes(parallel, shape.num_layers, largest)
        for parallel, shape in zip(planned, shapes, strict=True)
    ]
    if plan.teacher.server is not None:
        axes[1] = _brought_here(axes[0], facts.teacher.shape)
    recomputed = _recompute(plan.student.recompute, axes[0])
    depths = (2, 3 if shapes[1].num_layers > shapes[0].num_layers else 2)
    scales = (1, 2 if shapes[1].hidden_size > shapes[0].hidden_size else 1)
    student, teacher = map(reduced_shape, shapes, planned, axes, depths, scales)
    small = _plan(plan, axes, recomputed, num_ranks, run_plan)
    if student.vision is not None:
        small = _with(small, data={"max_length": PROMPT_TOKENS + IMAGE_TOKENS})
    return Reduced(small, student, teacher)


def with_models(plan: Plan, *, student: str, teacher: str, rows: str, output: str) -> Plan:
    """A reduced plan of models, rows and a run directory that exist."""
    return _with(
        plan,
        student={"model": student},
        teacher={"model": teacher},
        data={"train": (rows,)},
        run={"output": output},
    )


def taught_by_itself(plan: Plan) -> Plan:
    """A reduced plan whose teacher is its student, on the student's layout, and that learns from
    nothing else."""
    return _with(
        plan,
        teacher={"model": plan.student.model, "parallel": None},
        distill={"sft_alpha": 0.0},
    )


def on_one_rank(plan: Plan) -> Plan:
    """A reduced plan without any axis."""
    alone = {"parallel": Parallel()}
    return _with(plan, cluster={"devices_per_node": 1}, student=alone, teacher=alone)


def row_by_row(plan: Plan) -> Plan:
    """A reduced plan whose micro-batches have one row each."""
    return _with(plan, batch={"micro": 1})


def _on_cpu(distill: Distill) -> Distill:
    """Where Triton has no compiler."""
    if distill.loss_backend is LossBackend.TRITON:
        return distill.model_copy(update={"loss_backend": None})
    return distill


def _plan(
    plan: Plan, axes: list[Parallel], recompute: Recompute, num_ranks: int, run_plan: RunPlan
) -> Plan:
    student, teacher = axes
    data = num_ranks // (student.tensor * student.pipeline * student.context)
    num_rows = MICRO_ROWS * data * max(2, student.pipeline)
    waits_on_host = run_plan.models.teacher.offload is Tier.HOST
    small = plan.model_copy(
        update={
            "cluster": Cluster(device="cpu", devices_per_node=num_ranks),
            "distill": _on_cpu(plan.distill),
            "generation": Generation(engine=Engine.NONE, max_completion_length=RESPONSE_TOKENS),
            "data": Data(train=plan.data.train, max_length=PROMPT_TOKENS, truncation="right"),
            "batch": Batch(micro=MICRO_ROWS, **{"global": num_rows}),
            "run": Run(steps=1),
        }
    )
    return _with(
        small,
        student={
            "revision": None,
            "dtype": Dtype.FP32,
            "init": "pretrained",
            "keep": None,
            "lora": _without_dropout(plan.student),
            "router_aux_loss_coef": 0.0,
            "parallel": student,
            "recompute": recompute,
            "offload": "none",
        },
        teacher={
            "self_": None,
            "decay": None,
            "revision": None,
            "dtype": None,
            "offload": "cpu" if waits_on_host else "none",
            "samples": None,
            "parallel": teacher,
            "server": None,
        },
        distill={"lmbda": 0.0, "seq_kd": False, **_kept_ids(plan, run_plan)},
        optimizer={"offload": "none"},
    )


def _brought_here(student: Parallel, teacher: ModelShape) -> Parallel:
    """The axes of a teacher that was behind a server: the student's, those of experts where it has
    some."""
    if teacher.moe is not None:
        return student
    return student.model_copy(update={"expert": 1, "expert_tensor": 1})


def _with(plan: Plan, **tables: Mapping[str, object]) -> Plan:
    """The plan with other values of some keys of each table."""
    changed = {name: getattr(plan, name).model_copy(update=keys) for name, keys in tables.items()}
    return plan.model_copy(update=changed)


def _kept_ids(plan: Plan, run_plan: RunPlan) -> Mapping[str, object]:
    """Of a payload of the likeliest ids no more than the small vocabulary has."""
    top_k = run_plan.objective.top_k
    if top_k is None:
        return {"payload": plan.distill.payload, "top_k": None}
    return {"payload": "top_k", "top_k": min(top_k, 32)}


def _without_dropout(student: Student) -> Lora | None:
    """What an adapter drops depends on the layout."""
    if student.tuning != "lora":
        return None
    return lora_of(student).model_copy(update={"dropout": 0.0})


def _world(run_plan: RunPlan) -> tuple[int, int]:
    """Ranks of the reduced plan, and the largest degree of an axis: the plan's own ranks; or the
    fewest with its degrees; or, where those are too many, with every degree 2 at most."""
    layout = run_plan.layout
    if layout.world_size <= MAX_RANKS:
        return layout.world_size, LARGEST_DEGREE
    fewest = _fewest_ranks(layout.student, layout.teacher, LARGEST_DEGREE)
    degrees = (*_dense(layout.student), *_dense(layout.teacher))
    if fewest <= MAX_RANKS and max(degrees) <= LARGEST_DEGREE:
        return fewest, LARGEST_DEGREE
    return _fewest_ranks(layout.student, layout.teacher, 2), 2


def _fewest_ranks(student: AxisDegrees, teacher: AxisDegrees, largest: int) -> int:
    """Where the student has a data axis, it has two data ranks at least."""
    num_ranks = lcm(*(_copy_of_model(degrees, largest) for degrees in (student, teacher)))
    is_one_copy = num_ranks == _product(_dense(student), largest)
    return 2 * num_ranks if student.data > 1 and is_one_copy else num_ranks


def _copy_of_model(degrees: AxisDegrees, largest: int) -> int:
    """The ranks that hold it once, and its experts a whole number of times."""
    experts = (degrees.expert_tensor, degrees.expert, degrees.pipeline)
    return lcm(_product(_dense(degrees), largest), _product(experts, largest))


def _dense(degrees: AxisDegrees) -> tuple[int, int, int]:
    return degrees.tensor, degrees.pipeline, degrees.context


def _product(degrees: tuple[int, int, int], largest: int) -> int:
    first, second, third = (min(degree, largest) for degree in degrees)
    return first * second * third


def _recompute(recompute: Recompute, axes: Parallel) -> Recompute:
    """Of whole layers, units of one and of two layers stay what they are; of more become two, and
    one where stages are unequal."""
    if recompute.granularity != "full" or recompute.num_layers is None:
        return recompute
    most = 1 if axes.stage_layers or recompute.method == "block" else 2
    return recompute.model_copy(update={"num_layers": min(recompute.num_layers, most)})
