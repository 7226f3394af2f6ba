"""Rules of the layout: what a mesh must divide, and which layers there are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts, ModelFacts
from gkdplan.planner.checks.rule import Finding, one_of, rule
from gkdplan.planner.layout import teacher_parallel, world_size_of
from gkdplan.shape import ModelShape
from gkdplan.spec.plan import Parallel, Plan
from gkdplan.vocab import Role


def valid_tensor_degrees(plan: Plan, facts: Facts) -> tuple[int, ...]:
    """The degrees that divide the ranks, and the heads and the ffn of both models."""
    world_size, axes = world_size_of(plan.cluster), plan.student.parallel
    return tuple(
        degree
        for degree in range(1, min(world_size, facts.student.shape.num_attention_heads) + 1)
        if world_size % (degree * axes.context * axes.pipeline) == 0
        and all(_divides(degree, model) for model in (facts.student, facts.teacher))
    )


@rule("GK201")
def ranks_divide_into_model_groups(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """world % (tensor x context x pipeline) (megatron/core/parallel_state.py)."""
    cluster, world_size = plan.cluster, world_size_of(plan.cluster)
    for role, parallel in _axes(plan):
        ranks = 1
        for axis in ("tensor", "context", "pipeline"):
            degree = getattr(parallel, axis)
            if world_size % (ranks * degree):
                others = f" x {ranks}" if ranks > 1 else ""
                yield Finding(
                    f"{_ranks(world_size)} cannot be divided into `{role}` {axis} groups of "
                    f"{degree}{others}",
                    f"{_parallel_path(plan, role)}.{axis}",
                    label="every rank belongs to one group",
                    notes=(f"nodes x devices = {cluster.num_nodes} x {cluster.devices_per_node}",),
                    help=_set_tensor(plan, facts, role) if axis == "tensor" else (),
                )
                break
            ranks *= degree


@rule("GK202")
def attention_heads_divide_by_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """num_attention_heads % tensor (megatron/core/transformer/transformer_config.py)."""
    for size in _sizes(plan, facts, lambda shape: shape.num_attention_heads):
        if size.number % size.tensor:
            yield size.finding(
                "attention heads", "num_attention_heads", "each rank would own part of a head"
            )


@rule("GK203")
def kv_heads_divide_by_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """num_kv_heads % tensor, or tensor % num_kv_heads, where ranks share a head
    (megatron/core/transformer/transformer_config.py)."""
    for size in _sizes(plan, facts, lambda shape: shape.num_kv_heads):
        if size.number % size.tensor and size.tensor % size.number:
            yield size.finding(
                "kv heads", "num_key_value_heads", "each rank would own part of a head"
            )


@rule("GK204")
def ffn_divides_by_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """ffn_hidden_size % tensor (megatron/core/tensor_parallel/layers.py)."""
    for size in _sizes(plan, facts, lambda shape: shape.ffn_hidden_size):
        if size.number % size.tensor:
            yield size.finding(
                "ffn columns", "intermediate_size", "each rank owns an equal share of them"
            )


@rule("GK205")
def sequence_needs_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Sequence parallelism divides tokens over the tensor axis
    (megatron/core/model_parallel_config.py)."""
    for role, parallel in _axes(plan):
        if parallel.sequence and parallel.tensor == 1:
            path = f"{_parallel_path(plan, role)}.sequence"
            yield Finding(
                f"`{role}` asks for sequence parallelism without a tensor axis",
                path,
                label="tokens are divided over the tensor axis, which has one rank",
                help=(f"remove `{path}`, or set `{_tensor_path(plan, role)}` above 1",),
            )


@rule("GK206")
def kept_layers_exist(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The kept layers lie within the checkpoint's depth."""
    if plan.student.init != "layers" or plan.student.keep is None:
        return
    layers, depth = plan.student.keep.layers, facts.student.shape.num_layers
    path = "student.keep.layers"
    beyond = sorted({layer for layer in layers if layer >= depth})
    if beyond:
        yield Finding(
            f"`student.keep.layers` names layer {beyond[0]} of a model with {depth} layers",
            path,
            label="there is no such layer",
            notes=(f"num_hidden_layers = {depth}, from {facts.student.origin}",),
            help=(f"write layers of 0 to {depth - 1}",),
        )


@rule("GK207", Severity.WARNING)
def tensor_groups_stay_on_a_node(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Tensor parallelism talks in every layer, so its ranks should share a fast link."""
    devices = plan.cluster.devices_per_node
    on_a_node = [d for d in valid_tensor_degrees(plan, facts) if devices % d == 0]
    for role, parallel in _axes(plan):
        if plan.cluster.num_nodes > 1 and devices % parallel.tensor:
            path = _tensor_path(plan, role)
            yield Finding(
                f"`{role}` tensor groups of {parallel.tensor} ranks span several nodes",
                path,
                label="every layer would wait for the network between nodes",
                notes=(f"devices_per_node = {devices}",),
                help=(f"set `{path}` to {one_of(on_a_node)}",) if on_a_node else (),
            )


RULES = (
    ranks_divide_into_model_groups,
    attention_heads_divide_by_tensor,
    kv_heads_divide_by_tensor,
    ffn_divides_by_tensor,
    sequence_needs_tensor,
    kept_layers_exist,
    tensor_groups_stay_on_a_node,
)


def _axes(plan: Plan) -> tuple[tuple[Role, Parallel], ...]:
    """The axes that the plan gives, each once: the teacher's only where it has its own."""
    student = (Role.STUDENT, plan.student.parallel)
    own = plan.teacher.parallel
    return (student,) if own is None else (student, (Role.TEACHER, own))


def _sizes(plan: Plan, facts: Facts, number_of: Callable[[ModelShape], int]) -> Iterator["_Size"]:
    """One number of each model; one entry where both models have it under one key."""
    student, teacher = (
        _Size(
            roles=(role,),
            number=number_of(model.shape),
            tensor=parallel.tensor,
            path=_tensor_path(plan, role),
            origins=(model.origin,),
            help=_set_tensor(plan, facts, role),
        )
        for role, model, parallel in (
            (Role.STUDENT, facts.student, plan.student.parallel),
            (Role.TEACHER, facts.teacher, teacher_parallel(plan)),
        )
    )
    if (student.number, student.path) != (teacher.number, teacher.path):
        yield from (student, teacher)
        return
    origins = tuple(dict.fromkeys(student.origins + teacher.origins))
    yield replace(student, roles=(Role.STUDENT, Role.TEACHER), origins=origins)


@dataclass(frozen=True, slots=True)
class _Size:
    """A number of a model that its tensor degree should divide."""

    roles: tuple[Role, ...]
    number: int
    tensor: int
    path: str
    origins: tuple[str, ...]
    help: tuple[str, ...]

    def finding(self, what: str, config_key: str, label: str) -> Finding:
        subject = " and ".join(f"`{role}`" for role in self.roles)
        have = "has" if len(self.roles) == 1 else "have"
        return Finding(
            f"{subject} {have} {self.number} {what}, not divisible by tensor degree {self.tensor}",
            self.path,
            label=label,
            notes=tuple(f"{config_key} = {self.number}, from {o}" for o in self.origins),
            help=self.help,
        )


def _divides(degree: int, model: ModelFacts) -> bool:
    shape = model.shape
    kv_heads = shape.num_kv_heads
    return (
        shape.num_attention_heads % degree == 0
        and shape.ffn_hidden_size % degree == 0
        and (kv_heads % degree == 0 or degree % kv_heads == 0)
    )


def _set_tensor(plan: Plan, facts: Facts, role: Role) -> tuple[str, ...]:
    degrees = valid_tensor_degrees(plan, facts)
    return (f"set `{_tensor_path(plan, role)}` to {one_of(degrees)}",) if degrees else ()


def _tensor_path(plan: Plan, role: Role) -> str:
    return f"{_parallel_path(plan, role)}.tensor"


def _parallel_path(plan: Plan, role: Role) -> str:
    """Where the plan says it: a teacher without axes of its own has the student's."""
    owner = Role.STUDENT if plan.teacher.parallel is None else role
    return f"{owner}.parallel"


def _ranks(world_size: int) -> str:
    return "1 rank" if world_size == 1 else f"{world_size} ranks"
