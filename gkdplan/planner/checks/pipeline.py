"""Rules of the pipeline: layers over stages, stages into chunks, micro-batches over both."""

from collections.abc import Iterator

from gkdplan.facts.model import Facts
from gkdplan.planner.checks.degrees import set_degree
from gkdplan.planner.checks.laid_out import LaidOut, laid_out
from gkdplan.planner.checks.possible import (
    chunks_divide,
    chunks_have_stages,
    ends_leave_layers,
    given_chunks_divide,
    given_stages_are_whole,
    layers_between_ends,
    ranks_divide,
    stage_sizes,
    stages_divide,
)
from gkdplan.planner.checks.rule import Finding, one_of, rule
from gkdplan.planner.layout import axis_degrees
from gkdplan.shape import ModelShape
from gkdplan.spec.plan import Plan


def _depth(shape: ModelShape) -> object:
    return shape.num_layers


@rule("GK210")
def stages_divide_the_layers(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Layers % pipeline, or, where an end has a number of its own, the rest over the other stages
    (megatron/core/transformer/transformer_config.py and transformer_block.py)."""
    for model in laid_out(plan, facts, _depth):
        if not stages_divide(model):
            rest, num_stages = layers_between_ends(model)
            left = "left " if rest < model.shape.num_layers else ""
            yield Finding(
                f"{model.has} {_layers(rest)} {left}for {num_stages} equal pipeline stages",
                model.path("pipeline"),
                label="every stage takes an equal share" if num_stages else "no stage is left",
                notes=_origin_of_depth(model),
                help=(
                    *set_degree(plan, facts, model, "pipeline"),
                    f"set `{model.path('stage_layers')}`: {model.parallel.pipeline} numbers "
                    f"whose sum is {model.shape.num_layers}",
                ),
            )


@rule("GK211")
def ends_leave_layers_for_the_rest(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The ends take no more than there is, and there are other stages: Megatron checks neither."""
    for model in laid_out(plan, facts, _depth):
        if not ends_leave_layers(model):
            rest, _ = layers_between_ends(model)
            key = _end(model)
            layers, is_one_stage = model.shape.num_layers, model.parallel.pipeline == 1
            yield Finding(
                f"{model.has} one pipeline stage, which takes every layer"
                if is_one_stage
                else f"{model.has} {_layers(layers)}, of which the ends take {layers - rest}",
                model.path(key),
                label="there are no ends" if is_one_stage else "the other stages take what is left",
                notes=_origin_of_depth(model),
                help=(
                    f"remove `{model.path(key)}`, or set `{model.path('pipeline')}` above 1"
                    if is_one_stage
                    else f"lower `{model.path(key)}`, or remove it",
                ),
            )


@rule("GK212")
def given_stages_hold_every_layer(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """As many counts as stages, with the model's layers as their sum
    (megatron/core/transformer/pipeline_parallel_layer_layout.py)."""
    for model in laid_out(plan, facts, _depth):
        given = model.parallel.stage_layers
        if given is not None and not given_stages_are_whole(model):
            layers, stages = model.shape.num_layers, model.parallel.pipeline
            yield Finding(
                f"{model.has} {layers} layers in {stages} pipeline stages, and `stage_layers` "
                f"gives {len(given)} stages {sum(given)} layers",
                model.path("stage_layers"),
                label="every stage has a number, every layer a stage",
                notes=_origin_of_depth(model),
                help=_even(model),
            )


@rule("GK213")
def chunks_divide_the_stages(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The layers of every stage % virtual_pipeline
    (megatron/core/transformer/transformer_config.py and transformer_block.py)."""
    for model in laid_out(plan, facts, _depth):
        if _stages_are_possible(model) and not chunks_divide(model):
            yield _uneven_chunks(plan, facts, model)


@rule("GK214")
def chunks_divide_the_given_stages(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The counts of `stage_layers` % virtual_pipeline: the chunks of a stage are equal here, while
    Megatron takes any (megatron/core/transformer/pipeline_parallel_layer_layout.py)."""
    for model in laid_out(plan, facts, _depth):
        if _stages_are_possible(model) and not given_chunks_divide(model):
            yield _uneven_chunks(plan, facts, model)


@rule("GK215")
def chunks_need_stages(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """virtual_pipeline > 1 needs pipeline > 1 (megatron/core/parallel_state.py)."""
    for model in laid_out(plan, facts):
        if not chunks_have_stages(model):
            path = model.path("virtual_pipeline")
            yield Finding(
                f"{model.name} cannot interleave {model.parallel.virtual_pipeline} chunks on one "
                "pipeline stage",
                path,
                label="chunks of several stages take turns",
                help=(f"remove `{path}`, or set `{model.path('pipeline')}` above 1",),
            )


@rule("GK216")
def micro_batches_fill_interleaved_groups(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A chunk takes the micro-batches in groups of `pipeline`, so that they are a multiple of it
    (megatron/core/pipeline_parallel/schedules.py, at run time)."""
    micro, rows = plan.batch.micro, plan.batch.global_
    for model in laid_out(plan, facts):
        axes = model.parallel
        data = axis_degrees(axes, model.world_size).data
        if axes.virtual_pipeline == 1 or not ranks_divide(model) or rows % (micro * data):
            continue
        num_micro_batches = rows // (micro * data)
        if num_micro_batches % axes.pipeline:
            unit = micro * data * axes.pipeline
            whole = rows // unit
            fitting = [n * unit for n in (whole, whole + 1) if n]
            yield Finding(
                f"{num_micro_batches:,} micro-batches do not fill groups of {axes.pipeline}, one "
                f"for each pipeline stage of {model.name}",
                "batch.global",
                label="interleaved stages take them in groups",
                notes=(f"global / (micro x data) = {rows:,} / ({micro:,} x {data:,})",),
                help=(
                    f"set `batch.global` to {one_of(fitting)}",
                    f"remove `{model.path('virtual_pipeline')}`",
                ),
            )


RULES = (
    stages_divide_the_layers,
    ends_leave_layers_for_the_rest,
    given_stages_hold_every_layer,
    chunks_divide_the_stages,
    chunks_divide_the_given_stages,
    chunks_need_stages,
    micro_batches_fill_interleaved_groups,
)


def _stages_are_possible(model: LaidOut) -> bool:
    return stages_divide(model) and ends_leave_layers(model) and given_stages_are_whole(model)


def _uneven_chunks(plan: Plan, facts: Facts, model: LaidOut) -> Finding:
    chunks = model.parallel.virtual_pipeline
    uneven = next(size for size in stage_sizes(model) if size % chunks)
    return Finding(
        f"{model.has} a pipeline stage of {_layers(uneven)}, not divisible into {chunks} chunks",
        model.path("virtual_pipeline"),
        label="every chunk of a stage takes an equal share",
        notes=_origin_of_depth(model),
        help=set_degree(plan, facts, model, "virtual_pipeline"),
    )


def _origin_of_depth(model: LaidOut) -> tuple[str, ...]:
    return model.origin_of("num_hidden_layers", model.shape.num_layers)


def _layers(num: int) -> str:
    return "1 layer" if num == 1 else f"{num} layers"


def _end(model: LaidOut) -> str:
    """The key of an end, the last where both are written."""
    is_last = model.parallel.last_stage_layers is not None
    return "last_stage_layers" if is_last else "first_stage_layers"


def _even(model: LaidOut) -> tuple[str, ...]:
    """Counts that differ by one at most, the shorter stages at the ends, which have the embedding
    and the head beside them."""
    layers, stages = model.shape.num_layers, model.parallel.pipeline
    if stages > layers:
        return (f"set `{model.path('pipeline')}` to at most {layers}",)
    if stages > _MANY_STAGES:
        return (f"write {stages} numbers whose sum is {layers}",)
    counts = [layers // stages] * stages
    first = (stages - layers % stages) // 2
    for stage in range(first, first + layers % stages):
        counts[stage] += 1
    return (f"write `stage_layers = {counts}`",)


_MANY_STAGES = 16
