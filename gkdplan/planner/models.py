"""The two models as they are built: shapes, one vocabulary, one padding."""

from dataclasses import replace
from math import lcm

from gkdplan.facts.model import Facts, ModelFacts
from gkdplan.planner.layout import stage_layers, teacher_parallel
from gkdplan.planner.lora import decide_lora
from gkdplan.runplan.layout import Layout
from gkdplan.runplan.model import Inputs, ModelInput
from gkdplan.runplan.models import (
    NO_RECOMPUTE,
    Freeze,
    LoadBalance,
    LoraPlan,
    ModelPlan,
    Models,
    Recompute,
    TeacherAddress,
    TeacherServer,
)
from gkdplan.shape import ModelShape
from gkdplan.spec import models as spec
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Dtype, Tier

VOCAB_DIVISOR = 128
"""Megatron's make_vocab_size_divisible_by: the padded vocabulary is a multiple of it per rank."""
DECAY = 0.999
"""The plan's default: an average over some thousand updates."""


def decide_models(plan: Plan, facts: Facts, layout: Layout) -> Models:
    """Both models, padded to one vocabulary size, and the ids that the loss is taken over."""
    padded = padded_vocab_size(facts, lcm(layout.student.tensor, layout.teacher.tensor))
    keep = plan.student.keep if plan.student.init == "layers" else None
    keep_layers = None if keep is None else keep.layers
    is_self = plan.teacher.self_ is not None
    name, revision = named_teacher(plan)
    models = Models(
        student=_model(
            plan.student.model,
            plan.student.revision,
            student_shape(plan, facts),
            plan.student.dtype,
            padded,
            init=plan.student.init,
            keep_layers=keep_layers,
            stage_layers=stage_layers(student_shape(plan, facts).num_layers, plan.student.parallel),
            recompute=_recompute(plan.student.recompute),
            lora=decide_lora(plan.student, student_shape(plan, facts)),
            load_balance=_load_balance(plan),
            freeze=_freeze(plan.student, facts.student.shape),
            idle_params=Tier.HOST if plan.student.offload == "cpu" else Tier.DEVICE,
            idle_grads=Tier.DROPPED if plan.student.offload in ("grads", "cpu") else Tier.DEVICE,
        ),
        teacher=_model(
            name,
            revision,
            teacher_shape(plan, facts),
            plan.teacher.dtype or plan.student.dtype,
            padded,
            init=plan.student.init if is_self else "pretrained",
            keep_layers=keep_layers if is_self else None,
            offload=Tier.HOST if plan.teacher.offload == "cpu" else Tier.DEVICE,
            stage_layers=_stages_of_teacher(plan, facts),
            prefetch=plan.teacher.prefetch,
            stream=plan.teacher.stream,
            server=None if plan.teacher.server is None else _server(plan.teacher.server),
            ema_decay=ema_decay(plan),
        ),
        vocab_size=true_vocab_size(facts),
    )
    if not _is_students_base(plan, models, layout):
        return models
    return replace(models, teacher=replace(models.teacher, is_students_base=True))


def _is_students_base(plan: Plan, models: Models, layout: Layout) -> bool:
    """Whether adapters alone make the student another model than the teacher, on the same ranks."""
    student, teacher = models.student, models.teacher
    is_same = (student.model, student.revision) == (teacher.model, teacher.revision)
    starts_alike = (student.init, student.keep_layers) == (teacher.init, teacher.keep_layers)
    is_laid_out_alike = layout.student == layout.teacher
    return (
        student.lora is not None
        and not student.learning_eyes
        and is_same
        and starts_alike
        and student.dtype is teacher.dtype
        and is_laid_out_alike
        and student.stage_layers == teacher.stage_layers
        and teacher.server is None
        and plan.teacher.offload == "none"
        and plan.student.offload != "cpu"
    )


def decide_inputs(facts: Facts) -> Inputs:
    """What the run plan was compiled from."""
    return Inputs(student=_input(facts.student), teacher=_input(facts.teacher))


def student_shape(plan: Plan, facts: Facts) -> ModelShape:
    """The student as it is trained: the checkpoint's shape, with the kept layers only."""
    if plan.student.init == "layers" and plan.student.keep is not None:
        return facts.student.shape.keeping(plan.student.keep.layers)
    return facts.student.shape


def teacher_shape(plan: Plan, facts: Facts) -> ModelShape:
    """The teacher's: the student's as it is trained where the student is its own teacher."""
    return facts.teacher.shape if plan.teacher.self_ is None else student_shape(plan, facts)


def named_teacher(plan: Plan) -> tuple[str, str | None]:
    """Directory or hub id, and revision, of the model that the teacher's weights are read from."""
    teacher, student = plan.teacher, plan.student
    if teacher.self_ is not None:
        return student.model, student.revision
    assert teacher.model is not None, "a plan names its teacher: spec/contradictions/teacher.py"
    return teacher.model, teacher.revision


def ema_decay(plan: Plan) -> float | None:
    """Of a teacher that is the average of its student's weights; None of any other."""
    if plan.teacher.self_ != "ema":
        return None
    return DECAY if plan.teacher.decay is None else plan.teacher.decay


def true_vocab_size(facts: Facts) -> int:
    """V*, the ids that both models can mean: the tokenizer's size where one was seen."""
    rows = min(facts.student.shape.vocab_size, facts.teacher.shape.vocab_size)
    tokenizer = facts.student.tokenizer or facts.teacher.tokenizer
    return rows if tokenizer is None else min(rows, tokenizer.size)


def padded_vocab_size(facts: Facts, tensor: int) -> int:
    """One padded size for both models, divisible over the tensor axis of either."""
    rows = max(facts.student.shape.vocab_size, facts.teacher.shape.vocab_size)
    return round_up(rows, VOCAB_DIVISOR * tensor)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _server(server: spec.Server) -> TeacherServer:
    """One address, or one a value of the column."""
    of_values = server.urls or {}
    of_all = () if server.url is None else (TeacherAddress(None, server.url),)
    return TeacherServer(
        of_all + tuple(TeacherAddress(value, url) for value, url in of_values.items()),
        server.column,
        server.patience_s,
    )


def _stages_of_teacher(plan: Plan, facts: Facts) -> tuple[tuple[int, ...], ...]:
    """Of a teacher behind a server no stage has a layer."""
    parallel = teacher_parallel(plan)
    if plan.teacher.server is not None:
        return ((0,),) * parallel.pipeline
    return stage_layers(teacher_shape(plan, facts).num_layers, parallel)


def _model(
    model: str,
    revision: str | None,
    shape: ModelShape,
    dtype: Dtype,
    padded_vocab_size: int,
    *,
    init: str = "pretrained",
    keep_layers: tuple[int, ...] | None = None,
    offload: Tier = Tier.DEVICE,
    stage_layers: tuple[tuple[int, ...], ...],
    recompute: Recompute = NO_RECOMPUTE,
    lora: LoraPlan | None = None,
    load_balance: LoadBalance | None = None,
    freeze: Freeze | None = None,
    prefetch: bool | None = None,
    stream: bool = False,
    server: TeacherServer | None = None,
    ema_decay: float | None = None,
    idle_params: Tier = Tier.DEVICE,
    idle_grads: Tier = Tier.DEVICE,
) -> ModelPlan:
    return ModelPlan(
        model=model,
        revision=revision,
        family=shape.family,
        num_parameters=shape.num_parameters,
        shape=shape,
        dtype=dtype,
        padded_vocab_size=padded_vocab_size,
        init=init,
        keep_layers=keep_layers,
        offload=offload,
        stage_layers=stage_layers,
        recompute=recompute,
        lora=lora,
        load_balance=load_balance,
        freeze=freeze,
        prefetch=prefetch,
        stream=stream,
        server=server,
        ema_decay=ema_decay,
        idle_params=idle_params,
        idle_grads=idle_grads,
    )


def _load_balance(plan: Plan) -> LoadBalance | None:
    coefficient = plan.student.router_aux_loss_coef
    if coefficient == 0:
        return None
    return LoadBalance(coefficient, max(1, plan.batch.global_ // plan.batch.micro))


def _freeze(student: spec.Student, shape: ModelShape) -> Freeze | None:
    """Of a model that sees: its decoder learns unless the plan says otherwise, tower and projector
    only where it says so."""
    if shape.vision is None:
        return None
    return Freeze(
        vision=student.freeze_vision is not False,
        projector=student.freeze_projector is not False,
        language=student.freeze_language is True,
    )


def _recompute(recompute: spec.Recompute) -> Recompute:
    """Left out, the modules of "selective" are Megatron's own choice
    (megatron/core/transformer/transformer_config.py)."""
    modules = recompute.modules
    if recompute.granularity == "selective" and not modules:
        modules = ("core_attn",)
    return Recompute(recompute.granularity, recompute.method, recompute.num_layers, modules)


def _input(model: ModelFacts) -> ModelInput:
    fingerprint = None if model.tokenizer is None else model.tokenizer.fingerprint
    return ModelInput(origin=model.origin, tokenizer=fingerprint)
