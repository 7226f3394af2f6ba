"""Rules of the expert axes: what the experts of a layer must divide into."""

from collections.abc import Iterator

from gkdplan.facts.model import Facts
from gkdplan.planner.checks.degrees import set_degree, undivided
from gkdplan.planner.checks.laid_out import laid_out
from gkdplan.planner.checks.possible import (
    expert_axis_has_experts,
    expert_ffn_divides,
    expert_tensor_axis_has_experts,
    experts_divide,
    whole_experts_are_cut_like_the_rest,
)
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.models import student_shape
from gkdplan.shape import ModelShape
from gkdplan.spec.plan import Plan


def _experts(shape: ModelShape) -> object:
    return shape.moe


@rule("GK220")
def experts_divide_by_expert(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """num_experts % expert (megatron/core/transformer/moe/moe_layer.py)."""
    for model in laid_out(plan, facts, _experts):
        if model.shape.moe is not None and not experts_divide(model):
            num_experts = model.shape.moe.num_experts
            yield undivided(
                plan,
                facts,
                model,
                "expert",
                f"{num_experts} experts",
                model.origin_of("experts of a layer", num_experts),
                "each rank owns an equal number of experts",
            )


@rule("GK221")
def expert_ffn_divides_by_expert_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """moe_ffn_hidden_size % expert_tensor (megatron/core/tensor_parallel/layers.py)."""
    for model in laid_out(plan, facts, _experts):
        if model.shape.moe is not None and not expert_ffn_divides(model):
            columns = model.shape.moe.expert_ffn_hidden_size
            yield undivided(
                plan,
                facts,
                model,
                "expert_tensor",
                f"experts of {columns} ffn columns",
                model.origin_of("ffn columns of an expert", columns),
                "each rank owns an equal share of them",
            )


@rule("GK222")
def expert_axis_needs_experts(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """expert > 1 needs experts (megatron/core/transformer/transformer_config.py)."""
    for model in laid_out(plan, facts, _experts):
        if not expert_axis_has_experts(model):
            yield Finding(
                f"{model.has} no experts to spread over an expert axis of {model.parallel.expert}",
                model.path("expert"),
                label="only the experts of a layer are spread over it",
                help=_without(model.table, "expert"),
            )


@rule("GK223")
def expert_tensor_axis_needs_experts(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """expert_tensor > 1 would divide nothing in a model without experts."""
    for model in laid_out(plan, facts, _experts):
        if not expert_tensor_axis_has_experts(model):
            yield Finding(
                f"{model.has} no experts whose matrices {model.parallel.expert_tensor} ranks could "
                "share",
                model.path("expert_tensor"),
                label="only the matrices of experts are cut by it",
                help=_without(model.table, "expert_tensor"),
            )


@rule("GK226")
def experts_on_one_rank_are_cut_by_tensor(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """With expert = 1, expert_tensor is the tensor degree."""
    for model in laid_out(plan, facts, _experts):
        if not whole_experts_are_cut_like_the_rest(model):
            yield Finding(
                f"{model.has} experts of tensor degree {model.parallel.expert_tensor} among "
                f"weights of {model.parallel.tensor}, and no expert axis",
                model.path("expert_tensor" if model.parallel.expert_tensor > 1 else "tensor"),
                label="the tensor ranks' copies of an expert would learn apart",
                help=(
                    *set_degree(plan, facts, model, "expert_tensor"),
                    *set_degree(plan, facts, model, "expert"),
                ),
            )


@rule("GK227")
def load_balance_needs_experts(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A loss over a router's choice needs a router."""
    if plan.student.router_aux_loss_coef > 0 and student_shape(plan, facts).moe is None:
        yield Finding(
            "`student` has no experts whose load a loss could balance",
            "student.router_aux_loss_coef",
            label="no router chooses between experts",
            help=("remove `student.router_aux_loss_coef`",),
        )


@rule("GK228")
def load_balance_needs_every_layers_padding(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """With "block" Megatron tells only the layers that it makes again where padding is
    (megatron/core/transformer/transformer_block.py, _checkpointed_forward)."""
    is_block = plan.student.recompute.method == "block"
    is_balanced = plan.student.router_aux_loss_coef > 0
    if is_block and is_balanced and student_shape(plan, facts).moe is not None:
        yield Finding(
            'the load of experts cannot be balanced under recompute of method "block"',
            "student.recompute.method",
            label="padding would be counted as tokens in the layers that are kept",
            help=(
                'set `student.recompute.method` to "uniform"',
                "remove `student.router_aux_loss_coef`",
            ),
        )


RULES = (
    experts_divide_by_expert,
    expert_ffn_divides_by_expert_tensor,
    expert_axis_needs_experts,
    expert_tensor_axis_needs_experts,
    experts_on_one_rank_are_cut_by_tensor,
    load_balance_needs_experts,
    load_balance_needs_every_layers_padding,
)


def _without(table: str, axis: str) -> tuple[str, ...]:
    """A dense teacher may have to leave the layout of a student with experts."""
    if table == "student.parallel":
        return (
            f"remove `{table}.{axis}`",
            "where one model has experts and the other has none, give the teacher "
            "`[teacher.parallel]`",
        )
    return (f"remove `{table}.{axis}`",)
