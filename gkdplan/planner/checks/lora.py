"""Rules of low-rank adapters: what can have one, and where."""

from collections.abc import Iterator
from difflib import get_close_matches

from gkdplan.facts.model import Facts
from gkdplan.families.tensors import projections_of
from gkdplan.planner.checks.degrees import possible_degrees
from gkdplan.planner.checks.laid_out import student_laid_out
from gkdplan.planner.checks.rule import Finding, one_of, plan_rule, rule
from gkdplan.planner.layout import kernels_of
from gkdplan.planner.lora import ALL_LINEAR, lora_of, targets_of
from gkdplan.projections import FUSED_PROJECTIONS, OF_EXPERTS, PROJECTIONS, parts_of
from gkdplan.shape import LATENT_PROJECTIONS
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Kernels

_TARGETS = "student.lora.targets"
_NAMES = (*PROJECTIONS, *FUSED_PROJECTIONS, *LATENT_PROJECTIONS)
OF_KV_HEADS = ("qkv_proj", "q_proj", "k_proj", "v_proj")
"""The parts of the fused projection, which Megatron orders by kv head."""


@plan_rule("GK250")
def targets_are_projections(plan: Plan) -> Iterator[Finding]:
    """Targets are the names that PEFT takes for these models, whole."""
    if plan.student.tuning != "lora":
        return
    names = (ALL_LINEAR, *_NAMES)
    for index, target in enumerate(lora_of(plan.student).targets):
        if target not in names:
            near = get_close_matches(target.rpartition(".")[2], names, n=2) or names
            yield Finding(
                f'"{target}" is no projection that can have an adapter',
                f"{_TARGETS}[{index}]",
                label="unknown name",
                help=(f"write {one_of(_quoted(near))}",),
            )


@rule("GK250")
def targets_are_of_the_family(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """What lies fused in a family's checkpoint has one adapter, as PEFT gives it, and what does not
    has no adapter in common."""
    if plan.student.tuning != "lora":
        return
    shape = facts.student.shape
    own = projections_of(shape)
    for index, target in enumerate(lora_of(plan.student).targets):
        if target in _NAMES and target not in own:
            near = [name for name in own if set(parts_of(name)) & set(parts_of(target))]
            near = near or [name for name in own if name not in OF_EXPERTS]
            yield Finding(
                f'"{target}" is no projection of {shape.family}',
                f"{_TARGETS}[{index}]",
                label="in its checkpoints " + ", ".join(near),
                help=(f"write {', '.join(_quoted(near))}",),
            )


@rule("GK251")
def adapters_have_whole_kv_heads(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Where ranks share a kv head, a rank's rows of the fused projection are no whole rows of q, k
    and v alike (megatron/core/transformer/attention.py): their adapters would differ by rank."""
    student = student_laid_out(plan, facts)
    heads, degree = student.shape.num_kv_heads, student.parallel.tensor
    targets = _targets(plan, facts)
    fused = [target for target in targets if target in OF_KV_HEADS]
    if not fused or heads % degree == 0:
        return
    degrees = possible_degrees(plan, facts, student.table, "tensor")
    whole = [other for other in degrees if heads % other == 0]
    rest = [target for target in targets if target not in OF_KV_HEADS]
    helps = []
    if whole:
        helps.append(f"set `{student.path('tensor')}` to {one_of(whole)}")
    if rest:
        helps.append(f"set `{_TARGETS}` to [{', '.join(_quoted(rest))}]")
    yield Finding(
        f"{', '.join(_quoted(fused))} cannot have adapters where {degree} ranks share {heads} kv "
        f"head{'s' if heads > 1 else ''}",
        _TARGETS if plan.student.lora is not None else "student.tuning",
        label="a rank would own part of a head",
        notes=student.origin_of("num_key_value_heads", heads),
        help=tuple(helps),
    )


@rule("GK590")
def experts_have_adapters_that_peft_loads(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """On CUDA the matrices of a layer's experts are one module (TEGroupedMLP in
    megatron/core/transformer/moe/experts.py): no expert has a linear layer that an adapter of ours
    could follow. PEFT 0.21 has no dropout beside transformers' experts (peft/tuners/lora/layer.py,
    ParamWrapper), reads gate and up of a checkpoint's experts as theirs only beside down, and those
    beside a shared expert as its (peft/utils/transformers_weight_conversion.py)."""
    moe, targets = student_laid_out(plan, facts).shape.moe, _targets(plan, facts)
    of_experts = [target for target in targets if target in OF_EXPERTS]
    if moe is None or not of_experts:
        return
    for reason, mend in _reasons(plan, facts, of_experts):
        others = [target for target in targets if target not in OF_EXPERTS]
        helps = [f"set `{_TARGETS}` to [{', '.join(_quoted(others))}]"] if others else []
        yield Finding(
            f"adapters on experts are not available {reason}",
            _TARGETS if plan.student.lora is not None else "student.tuning",
            label=f"{', '.join(of_experts)} of every expert",
            notes=(f"num_experts = {moe.num_experts}, from {facts.student.origin}",),
            help=(*mend, *(helps or ['set `student.tuning` to "full"'])),
        )


def _reasons(
    plan: Plan, facts: Facts, of_experts: list[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What forbids them, and how it is mended beside leaving them out."""
    if kernels_of(plan, facts.device) is Kernels.TRANSFORMER_ENGINE:
        mend = ('set `cluster.kernels` to "torch"',)
        yield "with Transformer Engine, which has them all in one module", mend
    shape = facts.student.shape
    if shape.moe is not None and shape.moe.shared_ffn_hidden_size:
        yield f"in {shape.family}: PEFT reads them as the shared expert's", ()
    if lora_of(plan.student).dropout > 0:
        mend = ("remove `student.lora.dropout`",)
        yield "with dropout: PEFT has none beside experts", mend
    if len(of_experts) < len(OF_EXPERTS) and of_experts != ["down_proj"]:
        missing = [target for target in OF_EXPERTS if target not in of_experts]
        mend = (f"add {', '.join(_quoted(missing))}",)
        yield "without all of " + ", ".join(OF_EXPERTS) + ", or down_proj alone", mend


PLAN_RULES = (targets_are_projections,)
RULES = (
    *PLAN_RULES,
    targets_are_of_the_family,
    adapters_have_whole_kv_heads,
    experts_have_adapters_that_peft_loads,
)


def _targets(plan: Plan, facts: Facts) -> tuple[str, ...]:
    if plan.student.tuning != "lora":
        return ()
    return targets_of(lora_of(plan.student).targets, facts.student.shape)


def _quoted(names: list[str] | tuple[str, ...]) -> list[str]:
    return [f'"{name}"' for name in names]
