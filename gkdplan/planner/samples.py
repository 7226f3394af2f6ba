"""A plan that only samples, and what its samples are."""

from gkdplan.facts.model import Facts
from gkdplan.planner.layout import teacher_parallel
from gkdplan.planner.models import named_teacher
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Generate
from gkdplan.samples import (
    IMAGES_VERSION,
    TEXT_VERSION,
    Manifest,
    SampledFile,
    text_fingerprint,
)
from gkdplan.spec.models import Student, Teacher
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Engine, Role


def sampling_plan(plan: Plan, role: Role) -> Plan:
    """The plan with every step on `role`'s samples, and without what training alone asks for.

    An `engine` of "none" becomes Megatron's own generation, and so does a server that holds the
    student's weights where the teacher samples.
    """
    lmbda = float(role is Role.STUDENT)
    is_none = plan.generation.engine is Engine.NONE
    is_others = role is Role.TEACHER and plan.generation.mode == "server"
    own: dict[str, object] = {"engine": Engine.MEGATRON, "mode": "colocate", "server_url": None}
    changes = {
        "distill": {"lmbda": lmbda, "seq_kd": 1 - lmbda, "sft_alpha": 0.0},
        "generation": own if is_others or is_none else {"sleep_level": 0},
        "teacher": {"samples": None},
        "data": {"eval": ()},
        "optimizer": {"offload": "none", "prefetch": None},
        "run": {"loggers": ()},
    }
    tables = {
        name: getattr(plan, name).model_copy(update=update) for name, update in changes.items()
    }
    return plan.model_copy(update=tables)


def takes_vllm_on_the_ranks(plan: Plan) -> bool:
    """Whether an engine on the ranks can draw the teacher's samples: where it has servers, they
    do."""
    generation = plan.generation
    is_here = generation.engine is Engine.VLLM and generation.mode == "colocate"
    return is_here and plan.teacher.server is None


def with_the_teacher_as_student(plan: Plan) -> Plan:
    """A plan of the teacher's samples for vllm, which holds a student's weights: the teacher is in
    both places, in its own layout."""
    name, revision = named_teacher(plan)
    drawing = Student(
        model=name,
        revision=revision,
        dtype=plan.teacher.dtype or plan.student.dtype,
        parallel=teacher_parallel(plan),
    )
    same = Teacher(model=name, revision=revision)
    distill = plan.distill.model_copy(update={"lmbda": 1.0, "seq_kd": False})
    return plan.model_copy(update={"student": drawing, "teacher": same, "distill": distill})


def manifest_of_plan(
    run_plan: RunPlan, facts: Facts, role: Role, weights: str | None, engine: Engine
) -> Manifest:
    """What the samples are that `engine` draws of `role`'s model in `run_plan`; `weights` is the
    fingerprint of those. The student's tokenizer was seen."""
    sampling, tokenizer = run_plan.sampling, facts.student.tokenizer
    model = getattr(run_plan.models, role)
    assert tokenizer is not None
    return Manifest(
        version=TEXT_VERSION if facts.student.shape.vision is None else IMAGES_VERSION,
        tool=run_plan.tool,
        role=role,
        model=model.model,
        revision=model.revision,
        weights=weights,
        dtype=model.dtype,
        tokenizer=tokenizer.fingerprint,
        chat_template=text_fingerprint(tokenizer.chat_template),
        engine=engine,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_completion_length=sampling.max_completion_length,
        seed=run_plan.training.seed,
        max_length=run_plan.data.max_length,
        truncation=run_plan.data.truncation,
        data=tuple(SampledFile(s.path, s.num_rows, s.fingerprint) for s in run_plan.data.train),
    )


def engine_of_samples(run_plan: RunPlan, role: Role) -> Engine:
    """What draws `role`'s samples in a run plan that samples them."""
    drawn = [step for step in run_plan.steps if isinstance(step, Generate) and step.role is role]
    return drawn[0].engine
