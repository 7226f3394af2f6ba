"""Carries out the plan's moves: which tensors lie on the device, and which only on the host."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import ModelPlan
from gkdplan.runplan.steps import Move
from gkdplan.runtime.copying import begin_copies, nothing_like, nothing_to_wait_for
from gkdplan.runtime.layer_stream import stream_layers
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.forward import output_head
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.resized import ResizedStorages
from gkdplan.vocab import Tier

TEACHER_BODY, STUDENT_STATE = "teacher body", "student main + Adam"
STUDENT_PARAMS, STUDENT_GRADS = "student params", "student grads"


class Residency:
    """Tensors that live on the host and visit the device.

    Frozen ones never change, so leaving the device frees the device's bytes and writes nothing
    back; while they are away they are empty, so that nothing can compute with them. Others are
    written back, and are their host copies while they are away. On a CPU the two tiers are both
    RAM, but they are accounted apart.
    """

    def __init__(self, device: torch.device, meter: LiveBytes) -> None:
        self._device = device
        self._meter = meter
        self._frozen: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._changing: dict[str, tuple[Callable[[], Sequence[Tensor]], dict[int, Tensor]]] = {}
        self._under_way: dict[str, Callable[[], None]] = {}
        self._movers: dict[str, Callable[[Tier], None]] = {}

    def keep_on_host(self, name: str, parameters: Sequence[Parameter]) -> None:
        """Make the parameters' present CPU tensors the host copy of the frozen object `name`.

        On a GPU they are pinned one by one, so that the host never holds all of them twice.
        """
        self._frozen[name] = []
        for parameter in parameters:
            host = parameter.data.pin_memory() if self._device.type == "cuda" else parameter.data
            parameter.data = nothing_like(parameter)
            self._meter.exclude(host)
            self._frozen[name].append((parameter, host))

    def send_to_host(self, name: str, tensors: Callable[[], Sequence[Tensor]]) -> None:
        """Let object `name` live on the host from now on: what `tensors` gives whenever it moves.

        Each tensor gets one pinned host buffer as it first leaves, and keeps it. Tensors that share
        their storage with others cannot move.
        """
        self._changing[name] = (tensors, {})
        self._release(name)
        self.await_copy(name)

    def bring(self, parameters: Sequence[Parameter]) -> None:
        """Let parameters that were built in host memory live on the device from now on."""
        for parameter in parameters:
            parameter.data = parameter.data.to(self._device)

    def leave_to(self, name: str, mover: Callable[[Tier], None]) -> None:
        """Let `mover` carry out the moves of object `name`."""
        self._movers[name] = mover

    def home_of(self, parameter: Parameter) -> Tensor:
        """Where its values are kept: its host copy, if it has one that does not change."""
        homes = (home for homes in self._frozen.values() for home in homes)
        return next((host for visitor, host in homes if visitor is parameter), parameter.data)

    def apply(self, move: Move) -> None:
        """Do one move of the plan; of one that is due later only begin its copy."""
        if move.object in self._movers:
            self._movers[move.object](move.to_tier)
            return
        begin = self._fetch if move.to_tier is Tier.DEVICE else self._release
        begin(move.object)
        if move.due is None:
            self.await_copy(move.object)

    def await_copy(self, name: str) -> None:
        """Let nothing read object `name` before its copy is complete. A copy that ends in the step
        after its own is not there in the first step of a process."""
        self._under_way.pop(name, nothing_to_wait_for)()

    @contextmanager
    def frozen_on_device(self) -> Iterator[None]:
        """Every frozen object visits the device, as evaluation and sampling between steps need."""
        for name in self._frozen:
            self._fetch(name)
            self.await_copy(name)
        try:
            yield
        finally:
            for name in self._frozen:
                self._release(name)
                self.await_copy(name)

    def _fetch(self, name: str) -> None:
        homes = self._frozen.get(name) or [(tensor, tensor.data) for tensor in self._tensors(name)]
        copies = [(torch.empty_like(host, device=self._device), host) for _, host in homes]
        for (tensor, _), (on_device, _) in zip(homes, copies, strict=True):
            tensor.data = on_device
        self._under_way[name] = begin_copies(copies, self._device)

    def _release(self, name: str) -> None:
        """A frozen object is gone at once, one that changes when its copy is complete."""
        assert name not in self._under_way, f"{name} leaves before its copy was awaited"
        for tensor, _ in self._frozen.get(name, ()):
            tensor.data = nothing_like(tensor)
        leaving = [(tensor, self._host_of(name, tensor)) for tensor in self._tensors(name)]
        copied = begin_copies([(host, tensor.data) for tensor, host in leaving], self._device)

        def go_home() -> None:
            copied()
            for tensor, host in leaving:
                tensor.data = host

        self._under_way[name] = go_home

    def _tensors(self, name: str) -> Sequence[Tensor]:
        """Of an object that changes; none of a frozen one."""
        return self._changing[name][0]() if name in self._changing else ()

    def _host_of(self, name: str, tensor: Tensor) -> Tensor:
        buffers = self._changing[name][1]
        if id(tensor) not in buffers:
            is_pinned = self._device.type == "cuda"
            host = torch.empty_like(tensor.data, device="cpu", pin_memory=is_pinned)
            self._meter.exclude(host)
            buffers[id(tensor)] = host
        return buffers[id(tensor)]


def let_student_rest(
    residency: Residency, plan: RunPlan, trainer: Trainer, meter: LiveBytes
) -> None:
    """Let the optimizer's state, parameters and gradients leave the device as the plan says. The
    state is on the host from now on, and gradients, which are zero before the first step too, are
    dropped."""
    student = plan.models.student
    if plan.optimizer.offload is Tier.HOST:
        residency.send_to_host(STUDENT_STATE, trainer.state_apart)
    if student.idle_params is Tier.HOST:
        parameters = [parameter for chunk in trainer.chunks for parameter in chunk.parameters()]
        mover = ResizedStorages(parameters, meter, keeps=True)
        residency.leave_to(STUDENT_PARAMS, mover.move)
    if student.idle_grads is Tier.DROPPED:
        grads = ResizedStorages(trainer.gradients(), meter, keeps=False)
        residency.leave_to(STUDENT_GRADS, grads.move)
        grads.move(Tier.DROPPED)


def keep_teacher_on_host(
    residency: Residency, plan: ModelPlan, chunks: Sequence[Any], meter: LiveBytes
) -> None:
    """The GPTModels' parameters but the output head, which the student phase needs too; a streamed
    teacher's come layer by layer as they run."""
    heads = [output_head(chunk) for chunk in chunks if chunk.post_process]
    parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]
    body = [parameter for parameter in parameters if all(parameter is not head for head in heads)]
    if plan.stream:
        stream_layers(chunks, heads, meter)
    else:
        residency.keep_on_host(TEACHER_BODY, body)
    residency.bring(heads)
