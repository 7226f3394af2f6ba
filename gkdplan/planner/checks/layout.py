"""Rules of the layout: the mesh, what each axis divides, and the layers there are."""

from collections.abc import Iterator

from gkdplan.facts.model import Facts
from gkdplan.planner.checks import (
    experts,
    heads,
    lora,
    mesh,
    pipeline,
    recompute,
    sequence,
)
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.spec.plan import Plan


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


RULES = (
    *mesh.RULES,
    *heads.RULES,
    *sequence.RULES,
    *pipeline.RULES,
    *experts.RULES,
    *recompute.RULES,
    *lora.RULES,
    kept_layers_exist,
)
