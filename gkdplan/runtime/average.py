"""A teacher that is the exponential moving average of its student's weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.main_pieces import MainPiece
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.residency import Residency
from gkdplan.vocab import Tier


@dataclass(frozen=True, slots=True)
class _Averaged:
    """The `average` of a piece of the student's main weights, float32, and the flat weights of the
    teacher that it goes to: where they are float32 it is a part of them."""

    piece: MainPiece
    weights: Tensor
    average: Tensor

    @property
    def is_part_of_weights(self) -> bool:
        return self.weights.dtype is torch.float32


class StudentAverage:
    """After update t the teacher a is a_t = d a_(t-1) + (1 - d) w_t of the student's main weights
    w (Tarvainen and Valpola, arXiv 1703.01780, equation 2), computed in float32 whatever dtype the
    models have.

    Each rank averages what it updates, so that with a distributed optimizer the average is divided
    over the data axis too; then the ranks of a group bring each other the teacher's weights. It
    lies where they do: on the host where the teacher waits there.
    """

    def __init__(
        self,
        decay: float,
        student: Sequence[Any],
        teacher: Sequence[Any],
        pieces: Sequence[MainPiece],
        home_of: Callable[[Parameter], Tensor],
        device: torch.device,
    ) -> None:
        """`student` and `teacher` are GPTModels of one layout, with the same weights; `home_of`
        gives the tensor that a weight of the teacher is kept in."""
        self._decay = decay
        self._device = device
        twins = _twins(student, teacher)
        self._averaged = []
        for piece in pieces:
            weights = home_of(twins[piece.parameter]).detach().view(-1)
            part = weights[piece.start : piece.stop]
            average = part if weights.dtype is torch.float32 else part.float()
            self._averaged.append(_Averaged(piece, weights, average))

    def own_tensors(self) -> list[Tensor]:
        """Those that are no part of the teacher's weights."""
        return [a.average for a in self._averaged if not a.is_part_of_weights]

    def update(self) -> None:
        """Follow the student's update; every rank takes part."""
        for averaged in self._averaged:
            if averaged.piece.main is not None:
                main = averaged.piece.main.detach().view(-1)
                averaged.average.lerp_(main.to(averaged.average.device), 1 - self._decay)
        self.publish()

    def averages(self) -> dict[Parameter, Tensor]:
        """Of each of the student's parameters the piece that this rank averages, flat."""
        return {a.piece.parameter: a.average for a in self._averaged if a.piece.main is not None}

    def publish(self) -> None:
        """Bring the teacher's weights in line with the average. Each element is updated by one
        rank of its group, and a sum with zeros is the element."""
        for averaged in self._averaged:
            piece, weights = averaged.piece, averaged.weights
            if not averaged.is_part_of_weights:
                weights[piece.start : piece.stop].copy_(averaged.average)
            if piece.group is not None and piece.group.size() > 1:
                weights[: piece.start].zero_()
                weights[piece.stop :].zero_()
                whole = weights.to(self._device)
                dist.all_reduce(whole, group=piece.group)
                if whole is not weights:
                    weights.copy_(whole)


def open_average(
    plan: ModelPlan,
    student: Sequence[Any],
    teacher: Sequence[Any],
    trainer: Trainer,
    residency: Residency,
    meter: LiveBytes,
) -> StudentAverage | None:
    """Of the teacher `plan`, if it is its student's average: float32 pieces of it are counted where
    they lie."""
    if plan.ema_decay is None:
        return None
    pieces = trainer.main_pieces()
    average = StudentAverage(
        plan.ema_decay, student, teacher, pieces, residency.home_of, meter.device
    )
    for tensor in average.own_tensors():
        if plan.offload is Tier.HOST:
            meter.exclude(tensor)
        else:
            meter.adopt([tensor])
    return average


def _twins(student: Sequence[Any], teacher: Sequence[Any]) -> dict[Parameter, Parameter]:
    """The teacher's parameter of each of the student's."""
    return {
        parameter: dict(of_teacher.named_parameters())[name]
        for of_student, of_teacher in zip(student, teacher, strict=True)
        for name, parameter in of_student.named_parameters()
    }
