"""Rules of the mix of several files."""

from collections.abc import Iterator
from math import ceil

from gkdplan.diagnostics import Severity
from gkdplan.facts.model import Facts
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.runplan.mixing import rows_of_files
from gkdplan.spec.plan import Plan


@rule("GK491")
def weights_are_one_a_file(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """A weight belongs to the file at its place."""
    weights, num_files = plan.data.weights, len(plan.data.train)
    if weights is not None and len(weights) != num_files:
        yield Finding(
            f"`data.train` names files: {num_files:,}; `data.weights` weighs {len(weights):,}",
            "data.weights",
            label="each file has one, in the order of the files",
            help=(
                f"let `data.weights` have a length of {num_files:,}, or leave the key out to take "
                "every row once",
            ),
        )


@rule("GK492", Severity.WARNING)
def weights_give_every_file_rows(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Shares of an epoch are rounded to rows."""
    weights, files = plan.data.weights, facts.train
    if weights is None or len(weights) != len(files):
        return
    num_rows = sum(file.num_rows for file in files)
    num_rows -= num_rows % plan.batch.global_
    for index, num_taken in enumerate(rows_of_files(weights, num_rows)):
        if num_rows and not num_taken:
            others = sum(weights) - weights[index]
            enough = ceil(1000 * others / max(1, num_rows - 1)) / 1000
            yield Finding(
                f"the weight {weights[index]:g} gives {files[index].path} none of the {num_rows:,} "
                "rows of an epoch",
                f"data.weights[{index}]",
                label="no step learns from this file",
                help=(f"raise it to {enough:g}, or take the file and its weight out",),
            )


RULES = (weights_are_one_a_file, weights_give_every_file_rows)
