"""Rules of recompute: what each granularity needs to be told, and what it can name."""

from collections.abc import Iterable, Iterator
from math import gcd

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.laid_out import student_laid_out
from gkdplan.planner.checks.possible import stage_sizes
from gkdplan.planner.checks.rule import Finding, one_of, rule
from gkdplan.planner.layout import kernels_of
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Kernels

_TABLE = "student.recompute"
OF_ATTENTION = ("core_attn",)
OF_NORMS = ("layernorm",)
OF_AN_MLP = ("mlp",)
OF_EXPERTS = ("moe",)
OF_A_SHARED_EXPERT = ("shared_experts",)
MODULES = (*OF_ATTENTION, *OF_NORMS, *OF_AN_MLP, *OF_EXPERTS, *OF_A_SHARED_EXPERT)
"""Megatron's recompute_modules, but for those of kernels and of an attention that no model of this
planner has: "moe_act" needs grouped expert matrices, "mla_up_proj" Megatron's own latents."""


@rule("GK230")
def full_recompute_names_its_layers(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """ "full" needs a method and a number of layers
    (megatron/core/transformer/transformer_config.py)."""
    recompute = plan.student.recompute
    if recompute.granularity != "full":
        return
    missing = [key for key in ("method", "num_layers") if getattr(recompute, key) is None]
    if missing:
        yield Finding(
            f'`{_TABLE}.granularity = "full"` needs ' + " and ".join(f"`{k}`" for k in missing),
            f"{_TABLE}.granularity",
            label="which layers, and how many",
            help=(
                f"add {' and '.join(_EXAMPLES[key] for key in missing)} to `[{_TABLE}]`: "
                "every layer is computed again, and one layer's input is kept for each",
            ),
        )


@rule("GK231")
def recomputed_modules_are_known(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The names of recompute_modules (megatron/core/transformer/transformer_config.py)."""
    if plan.student.recompute.granularity != "selective":
        return
    offered = _quoted(_modules_there(plan, facts))
    for index, module in enumerate(plan.student.recompute.modules):
        if module not in MODULES:
            yield Finding(
                f'"{module}" is no module that can be computed again',
                f"{_TABLE}.modules[{index}]",
                label=_WITHOUT.get(module, "unknown name"),
                help=(f"write {offered}",),
            )


@rule("GK232", Severity.WARNING)
def recomputed_modules_are_there(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Megatron passes over modules that a layer does not have
    (megatron/core/transformer/transformer_layer.py)."""
    recompute, there = plan.student.recompute, _modules_there(plan, facts)
    if recompute.granularity != "selective":
        return
    for index, module in enumerate(recompute.modules):
        if module in MODULES and module not in there:
            yield Finding(
                f'`student` has no "{module}" to compute again',
                f"{_TABLE}.modules[{index}]",
                label="nothing is saved",
                help=(f"write {_quoted(there)}",),
            )


@rule("GK233", Severity.WARNING)
def recomputed_layers_are_there(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Megatron takes what there is where the number goes beyond a stage's layers
    (megatron/core/transformer/transformer_block.py)."""
    recompute = plan.student.recompute
    if recompute.granularity != "full" or recompute.method != "block":
        return
    largest = max(_runs_of_layers(plan, facts), default=0)
    if recompute.num_layers is not None and 0 < largest < recompute.num_layers:
        yield Finding(
            f"`{_TABLE}.num_layers = {recompute.num_layers}` is more than a stage has",
            f"{_TABLE}.num_layers",
            label=f"a run of layers on one rank is {largest} long",
            help=(f"set `{_TABLE}.num_layers` to at most {largest}",),
        )


@rule("GK234")
def uniform_units_divide_the_layers(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Megatron steps over a rank's layers in units of num_layers and asks for each layer of the
    last one, there or not (megatron/core/transformer/transformer_block.py)."""
    recompute = plan.student.recompute
    if recompute.granularity != "full" or recompute.method != "uniform":
        return
    common = gcd(*_runs_of_layers(plan, facts))
    if recompute.num_layers is not None and common % recompute.num_layers:
        divisors = one_of(n for n in range(1, common + 1) if common % n == 0)
        yield Finding(
            f"`{_TABLE}.num_layers = {recompute.num_layers}` does not divide the layers of a rank",
            f"{_TABLE}.num_layers",
            label="the last unit would ask for layers that are not there",
            notes=(f"runs of layers on one rank: {_listed(_runs_of_layers(plan, facts))}",),
            help=(f"set `{_TABLE}.num_layers` to {divisors}",),
        )


RULES = (
    full_recompute_names_its_layers,
    recomputed_modules_are_known,
    recomputed_modules_are_there,
    recomputed_layers_are_there,
    uniform_units_divide_the_layers,
)

_EXAMPLES = {"method": '`method = "uniform"`', "num_layers": "`num_layers = 1`"}
_WITHOUT = {
    "moe_act": "it needs grouped expert matrices, which the plan does not have",
    "mla_up_proj": 'attention from latents is computed again as "core_attn"',
}


def _runs_of_layers(plan: Plan, facts: Facts) -> tuple[int, ...]:
    """The lengths of what one rank runs without a break: stages, or their chunks."""
    model = student_laid_out(plan, facts)
    chunks = model.parallel.virtual_pipeline
    return tuple(sorted({num_layers // chunks for num_layers in stage_sizes(model)}))


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _modules_there(plan: Plan, facts: Facts) -> tuple[str, ...]:
    """Of the student's layers. Transformer Engine's norms are part of the projections that follow
    them; only that of a layer of experts is a module of its own
    (megatron/core/models/gpt/gpt_layer_specs.py)."""
    shape = student_laid_out(plan, facts).shape
    moe, mlp = shape.moe, OF_AN_MLP if shape.num_dense_layers else ()
    are_modules = kernels_of(plan, facts.device) is Kernels.TORCH
    norms = OF_NORMS if are_modules or moe is not None else ()
    if moe is None:
        return OF_ATTENTION + norms + mlp
    shared = OF_A_SHARED_EXPERT if moe.shared_ffn_hidden_size else ()
    return OF_ATTENTION + norms + mlp + OF_EXPERTS + shared


def _quoted(names: Iterable[str]) -> str:
    return one_of(f'"{name}"' for name in names)
