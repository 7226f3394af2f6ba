"""Checkpoints: the student as Hugging Face safetensors, its adapters as PEFT has them, and the
exact training state of each rank.

A checkpoint is written under a hidden name, with a manifest of all its files, and renamed when all
of it is on the disk, so that a directory named step_N always holds all of step N.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.diff import course
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.average import StudentAverage
from gkdplan.runtime.manifest import Entry, entry_of, sync_directory, write_manifest
from gkdplan.runtime.megatron.adapter_files import save_adapters
from gkdplan.runtime.megatron.mesh import Mesh, seed_generators
from gkdplan.runtime.megatron.random_states import (
    load_random_state_tensors,
    random_state_tensors,
)
from gkdplan.runtime.megatron.saved_state import SavedState, write_state
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.megatron.training_state import load_state, state_tensors
from gkdplan.runtime.megatron.weights import save_student
from gkdplan.runtime.run_directory import RunDirectory

RESPONSES = "responses.json"


def save(
    directory: RunDirectory,
    step: int,
    plan: RunPlan,
    trainer: Trainer,
    average: StudentAverage | None,
    mesh: Mesh,
    *,
    source: Path,
    keep: int,
    responses: dict[str, Any] | None = None,
) -> None:
    """Save step `step` and remove all but the newest `keep` checkpoints; every rank takes part.

    `source` is the directory that the student's config and tokenizer are taken from; `responses`
    are those of later steps that are drawn already.
    """
    final = directory.checkpoint(step)
    partial = final.with_name(f".{final.name}.partial")
    state = partial / "state"
    if mesh.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        state.mkdir(parents=True)
    dist.barrier()
    if plan.models.student.lora is not None:
        save_adapters(trainer.chunks, plan.models.student, mesh, partial / "adapter")
    save_student(trainer.chunks, plan.models.student, mesh, source, partial / "student")
    tensors, pieces = state_tensors(trainer, plan.models.student, mesh, average)
    on_host = {name: tensor.cpu() for name, tensor in tensors.items()}
    own = state / _file_of(mesh.rank)
    write_state(own, on_host | random_state_tensors(), pieces)
    entries = _of_all_ranks({str(own.relative_to(partial)): entry_of(own)})
    if mesh.rank == 0:
        _write_json(
            state / "state.json",
            {
                "step": step,
                "course": course(plan),
                "layout": _layout_of(plan),
                "world_size": mesh.world_size,
            },
        )
        if responses is not None:
            _write_json(state / RESPONSES, responses)
        write_manifest(partial, entries)
        partial.rename(final)
        sync_directory(final.parent)
        for old in directory.saved_steps()[:-keep]:
            shutil.rmtree(directory.checkpoint(old))
    dist.barrier()


def _of_all_ranks(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Each rank has read its own file, all at one time."""
    found: list[dict[str, Entry]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, entries)
    return {name: entry for of_rank in found for name, entry in of_rank.items()}


def restore(
    path: Path, plan: RunPlan, trainer: Trainer, average: StudentAverage | None, mesh: Mesh
) -> None:
    """Put this rank's training state back as `save` found it, with the student's parameters, those
    of a teacher that is their `average`, and the random states. Where the ranks are laid out in
    another way each reads its share of all states, and draws from the step's seed on.

    Raises UserError where the checkpoint is of another plan or its state is not whole.
    """
    state = path / "state"
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
    is_same = described["layout"] == _layout_of(plan)
    ranks = [mesh.rank] if is_same else range(described["world_size"])
    files = [state / _file_of(rank) for rank in ranks]
    with _read(files[0] if is_same else state, lambda _: SavedState(files)) as saved:
        load_state(saved, trainer, plan.models.student, mesh, average)
        if is_same:
            load_random_state_tensors(saved.tensors("random."))
        else:
            seed_generators(mesh, plan.training.seed + described["step"])


def _layout_of(plan: RunPlan) -> dict[str, Any]:
    """Where it is the same, each rank has the pieces that it had."""
    student = plan.models.student
    return {
        **asdict(plan.layout.student),
        "stage_layers": [list(layers) for layers in student.stage_layers],
        "padded_vocab_size": student.padded_vocab_size,
        "distributed": plan.optimizer.distributed,
    }


def _file_of(rank: int) -> str:
    return f"rank_{rank}.safetensors"


def saved_responses(path: Path) -> dict[str, Any]:
    """The `responses` of `save`.

    Raises UserError where they cannot be read.
    """
    found: dict[str, Any] = _read(path / "state" / RESPONSES, lambda f: json.loads(f.read_text()))
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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
