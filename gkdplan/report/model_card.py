"""The README.md of an exported student: what it was made of, and how."""

from gkdplan.report.objective import loss_formula, sources, temperatures
from gkdplan.runplan.model import RunPlan


def model_card(run_plan: RunPlan, checkpoint: str) -> str:
    """Markdown with the metadata that a hub reads."""
    student, teacher = run_plan.models.student, run_plan.models.teacher
    rows = (
        ("student", f"{student.model}, {student.init}"),
        ("teacher", teacher.model),
        ("loss", loss_formula(run_plan.objective)),
        ("temperature", temperatures(run_plan)),
        ("source", sources(run_plan)),
        ("checkpoint", f"{checkpoint} of {run_plan.training.num_steps}"),
        ("plan", f"{run_plan.name}, fingerprint {run_plan.fingerprint}"),
        ("tool", run_plan.tool),
    )
    table = "\n".join(f"| {name} | {_cell(what)} |" for name, what in rows)
    return f"""\
---
library_name: transformers
base_model: {student.model}
tags: [distillation, gkd]
---

# {run_plan.name}

A student of generalized knowledge distillation.

| | |
|---|---|
{table}
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
