"""The exact state of training on this rank, and its way back from whatever ranks saved it."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.average import StudentAverage
from gkdplan.runtime.megatron.main_pieces import MainPiece
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.parameters import named_parameters, own_slices
from gkdplan.runtime.megatron.saved_state import Piece, SavedState, Share
from gkdplan.runtime.megatron.trainer import Trainer

MAIN, AVERAGE = "main", "average"
"""Fields of a parameter beside Adam's: its float32 weights, and their average."""


def state_tensors(
    trainer: Trainer,
    plan: ModelPlan,
    mesh: Mesh,
    average: StudentAverage | None = None,
    *,
    keep: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, Tensor], list[Piece]]:
    """This rank's state at a step boundary: main parameters, Adam's state, the schedule, and the
    `average` that a teacher is, with the pieces that they are.

    Before the first update Adam has no state yet. The tensors share no storage with each other, as
    safetensors wants it: `keep` makes them such, by default `own_storage`.
    """
    keep = keep or own_storage
    averages = {} if average is None else average.averages()
    tensors, pieces = trainer.progress(), []
    for own, piece in _own_pieces(trainer, plan, mesh):
        assert own.main is not None
        assert own.adam is not None
        fields = {MAIN: own.main, **own.adam.state.get(own.main, {})}
        if own.parameter in averages:
            fields[AVERAGE] = averages[own.parameter]
        for field, value in fields.items():
            kept = keep(value)
            tensors[f"{field}.{piece.share.name}"] = kept.view(-1) if kept.dim() else kept
        pieces.append(piece)
    return tensors, pieces


def load_state(
    saved: SavedState,
    trainer: Trainer,
    plan: ModelPlan,
    mesh: Mesh,
    average: StudentAverage | None = None,
) -> None:
    """Continue exactly where `state_tensors` were taken; `saved` has this rank's own file where the
    layout is the same, else those of all ranks.

    Restores the model's parameters too, from the main ones, gathered over the data axis where they
    are split. Each parameter gets back a step counter of its own: torch's AdamW advances one a
    parameter, Transformer Engine's keeps one a group.
    """
    averages = {} if average is None else average.averages()
    with torch.no_grad():
        trainer.go_on(saved.tensors("scheduler.", "adam."))
        for own, piece in _own_pieces(trainer, plan, mesh):
            assert own.main is not None
            assert own.adam is not None
            fields = saved.fields_of(piece)
            own.main.copy_(fields.pop(MAIN).view_as(own.main))
            if own.parameter in averages:
                averages[own.parameter].copy_(fields.pop(AVERAGE))
            own.adam.state[own.main] = {
                field: (value.view_as(own.main) if value.dim() else value).to(
                    trainer.home_of(value, own.adam)
                )
                for field, value in fields.items()
            }
    trainer.publish_main_parameters()
    if average is not None:
        average.publish()


def _own_pieces(trainer: Trainer, plan: ModelPlan, mesh: Mesh) -> Iterator[tuple[MainPiece, Piece]]:
    """What this rank updates, and what it is of the model."""
    names = {p: name for name, p in named_parameters(trainer.chunks, plan, mesh)}
    for own in trainer.main_pieces():
        if own.main is not None:
            parameter, name = own.parameter, names[own.parameter]
            slices = own_slices(plan, mesh, name, parameter)
            yield own, Piece(Share(name, tuple(parameter.shape), slices), own.start, own.stop)


def own_storage(value: Tensor) -> Tensor:
    """The tensor itself, where it is all of its storage, else a copy."""
    value = value.detach()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
