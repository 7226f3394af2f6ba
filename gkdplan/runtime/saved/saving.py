"""Checkpoints written: the student as Hugging Face safetensors, its adapters as PEFT has them, and
the exact training state of each rank.

A checkpoint is written under a hidden name, with a manifest of all its files, and renamed when all
of it is on the disk, so that a directory named step_N always holds all of step N.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from gkdplan.runplan.diff import course
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Checkpoint
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.adapter_files import save_adapters
from gkdplan.runtime.megatron.adapters import merged_tensors
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.random_states import random_state_tensors
from gkdplan.runtime.megatron.saved_state import Piece, write_state
from gkdplan.runtime.megatron.student_files import write_student
from gkdplan.runtime.megatron.training_state import own_storage, state_tensors
from gkdplan.runtime.megatron.weights import save_student
from gkdplan.runtime.saved.background import Background
from gkdplan.runtime.saved.checkpoint import RESPONSES, STATE, file_of, layout_of
from gkdplan.runtime.saved.manifest import entry_of, sync_directory, write_manifest
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.runtime.session import Session

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class _Contents:
    """What one rank writes of a checkpoint, in this order: `write_student` into a directory, then
    its state."""

    write_student: Callable[[Path], None]
    state: Callable[[], tuple[dict[str, Tensor], list[Piece]]]
    responses: dict[str, Any] | None


class Saver:
    """Writes a session's checkpoints, beside later steps where the plan says so."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._background = Background()

    def save(self, step: int, action: Checkpoint, responses: dict[str, Any] | None = None) -> None:
        """Save step `step` and remove all but the newest checkpoints; every rank takes part.

        `responses` are those of later steps that are drawn already. Where the files are written
        beside later steps this returns when all is copied, once those begun before are on the disk.
        """
        self._background.finish()
        session = self._session
        files = _Files(session.directory, step, session.plan, session.mesh)
        if session.is_main:
            files.make_room()
        dist.barrier()
        plan = session.plan.models.student
        if plan.lora is not None:
            save_adapters(session.student, plan, session.mesh, files.partial / "adapter")
        if session.plan.training.async_save:
            contents = _copied(session, responses)
            self._background.begin(partial(files.write, contents, action.keep))
        else:
            files.write(_as_it_is(session, responses), action.keep)
            dist.barrier()

    def check(self) -> None:
        """Raises what a checkpoint that is being written has failed with."""
        self._background.check()

    def finish(self) -> None:
        """Wait until every checkpoint is on the disk; every rank takes part."""
        self._background.finish()
        dist.barrier()


def _as_it_is(session: Session, responses: dict[str, Any] | None) -> _Contents:
    """The student is gathered while it is written, by all ranks together, and the state is copied
    after that, where it has to be: no more than one of them is there twice."""
    plan, source = session.plan.models.student, session.student_source
    write = partial(save_student, session.student, plan, session.mesh, source)
    return _Contents(write, partial(_state, session, own_storage), responses)


def _copied(session: Session, responses: dict[str, Any] | None) -> _Contents:
    """On the host, where no later step writes."""
    plan, meter = session.plan.models.student, session.phases.meter
    student = []
    for name, tensor in merged_tensors(session.student, plan, session.mesh):
        if session.is_main:
            on_host = tensor.cpu()  # a tensor of its own: on a CPU nothing is copied
            meter.exclude(on_host)
            student.append((name, on_host))
    write = partial(write_student, student, plan, session.student_source)
    state = _state(session, partial(_host_copy, meter))
    return _Contents(write if session.is_main else _nothing, lambda: state, responses)


def _nothing(_: Path) -> None:
    """What a rank does that does not write."""


def _state(
    session: Session, keep: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Tensor], list[Piece]]:
    plan, mesh = session.plan.models.student, session.mesh
    tensors, pieces = state_tensors(session.trainer, plan, mesh, session.average, keep=keep)
    return tensors | random_state_tensors(), pieces


def _host_copy(meter: LiveBytes, tensor: Tensor) -> Tensor:
    copy = tensor.detach().to("cpu", copy=True)
    meter.exclude(copy)
    return copy


@dataclass(frozen=True, slots=True)
class _Files:
    """Where a rank writes of the checkpoint of `step`."""

    directory: RunDirectory
    step: int
    plan: RunPlan
    mesh: Mesh

    @property
    def final(self) -> Path:
        return self.directory.checkpoint(self.step)

    @property
    def partial(self) -> Path:
        return self.final.with_name(f".{self.final.name}.partial")

    @property
    def entries(self) -> Path:
        """Where each rank says that its file is on the disk, and what the manifest is to hold."""
        return self.final.with_name(f".{self.final.name}.entries.partial")

    def make_room(self) -> None:
        for path in (self.partial, self.entries):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        (self.partial / STATE).mkdir()

    def write(self, contents: _Contents, keep: int) -> None:
        """This rank's part; the first rank waits for those of the others, and ends it all."""
        contents.write_student(self.partial / "student")
        own = self.partial / STATE / file_of(self.mesh.rank)
        tensors, pieces = contents.state()
        write_state(own, {name: tensor.cpu() for name, tensor in tensors.items()}, pieces)
        self._tell({str(own.relative_to(self.partial)): entry_of(own)})
        if self.mesh.rank == 0:
            self._end(contents.responses, keep)

    def _tell(self, entries: dict[str, Any]) -> None:
        told = self.entries / f"{self.mesh.rank}.json"
        unfinished = told.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(entries), encoding="utf-8")
        unfinished.rename(told)

    def _end(self, responses: dict[str, Any] | None, keep: int) -> None:
        """A rank that fails to write ends the run, and with it this process."""
        told = [self.entries / f"{rank}.json" for rank in range(self.mesh.world_size)]
        while not all(path.exists() for path in told):
            time.sleep(POLL_S)
        state = self.partial / STATE
        described = {
            "step": self.step,
            "course": course(self.plan),
            "layout": layout_of(self.plan),
            "world_size": self.mesh.world_size,
        }
        _write_json(state / "state.json", described)
        if responses is not None:
            _write_json(state / RESPONSES, responses)
        known = {name: e for path in told for name, e in json.loads(path.read_text()).items()}
        write_manifest(self.partial, known)
        self.partial.rename(self.final)
        sync_directory(self.final.parent)
        shutil.rmtree(self.entries)
        for old in self.directory.saved_steps()[:-keep]:
            shutil.rmtree(self.directory.checkpoint(old))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
