"""What a run that goes on reads of a checkpoint."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.diff import course
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.average import StudentAverage
from gkdplan.runtime.megatron.mesh import Mesh, seed_generators
from gkdplan.runtime.megatron.random_states import (
    load_random_state_tensors,
)
from gkdplan.runtime.megatron.saved_state import SavedState
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.megatron.training_state import load_state

STATE, RESPONSES = "state", "responses.json"
"""A checkpoint's directory of training state, and the file in it of samples drawn ahead."""


def restore(
    path: Path, plan: RunPlan, trainer: Trainer, average: StudentAverage | None, mesh: Mesh
) -> None:
    """Put this rank's training state back as it was saved, with the student's parameters, those
    of a teacher that is their `average`, and the random states. Where the ranks are laid out in
    another way each reads its share of all states, and draws from the step's seed on.

    Raises UserError where the checkpoint is of another plan or its state is not whole.
    """
    state = path / STATE
    described = _read(state / "state.json", lambda file: json.loads(file.read_text()))
    if described["course"] != course(plan):
        raise UserError(
            error(
                "GK510",
                f"the checkpoint `{path}` was saved by another plan",
                "run.output",
                help=("resume it with the plan that it was saved by",),
            )
        )
    is_same = described["layout"] == layout_of(plan)
    ranks = [mesh.rank] if is_same else range(described["world_size"])
    files = [state / file_of(rank) for rank in ranks]
    with _read(files[0] if is_same else state, lambda _: SavedState(files)) as saved:
        load_state(saved, trainer, plan.models.student, mesh, average)
        if is_same:
            load_random_state_tensors(saved.tensors("random."))
        else:
            seed_generators(mesh, plan.training.seed + described["step"])


def layout_of(plan: RunPlan) -> dict[str, Any]:
    """Where it is the same, each rank has the pieces that it had."""
    student = plan.models.student
    return {
        **asdict(plan.layout.student),
        "stage_layers": [list(layers) for layers in student.stage_layers],
        "padded_vocab_size": student.padded_vocab_size,
        "distributed": plan.optimizer.distributed,
    }


def file_of(rank: int) -> str:
    return f"rank_{rank}.safetensors"


def saved_responses(path: Path) -> dict[str, Any]:
    """The responses of later steps that were drawn already.

    Raises UserError where they cannot be read.
    """
    found: dict[str, Any] = _read(path / STATE / RESPONSES, lambda f: json.loads(f.read_text()))
    return found


def _read(file: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(file)
    except Exception as failure:
        raise UserError(
            error(
                "GK517",
                f"the training state `{file}` cannot be read",
                "run.output",
                notes=(str(failure),),
                help=("resume from an older checkpoint: `--resume` takes its directory",),
            )
        ) from failure
