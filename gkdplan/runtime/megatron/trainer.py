"""Training steps with Megatron's data-parallel wrapper, optimizer and schedules."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from gkdplan.runplan.model import OptimizerPlan
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.main_pieces import MainPiece, main_pieces
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.optimizing import adam_of, reduced, schedule_of
from gkdplan.runtime.megatron.schedule import run_schedule

T = TypeVar("T")


class Trainer:
    """Sums gradients over micro-batches and data ranks, and updates with AdamW.

    Gradients are accumulated and reduced in float32; with bf16 parameters the optimizer keeps
    float32 main parameters. `plan.distributed` splits main parameters and Adam's moments over the
    data axis. Weight decay is decoupled and, as in Megatron, skips every 1-dimensional parameter:
    norms and biases. Update k of `num_steps` uses the schedule's rate at k, so the first warmup
    rate is lr / warmup_steps and the last update uses `min_lr`.
    """

    def __init__(
        self, chunks: Sequence[GPTModel], plan: OptimizerPlan, mesh: Mesh, num_steps: int
    ) -> None:
        self.chunks = tuple(chunks)
        self._mesh = mesh
        self._ddps = reduced(chunks, plan)
        self._optimizer = adam_of(self._ddps, plan)
        for adam in self._adams:
            platform.fuse_updates(adam)
        self._scheduler = schedule_of(self._optimizer, plan, num_steps)
        chunks[0].config.finalize_model_grads_func = _finalize_sums

    @property
    def lr(self) -> float:
        """The learning rate of the latest update."""
        return self._optimizer.param_groups[0]["lr"]

    def forward_backward(
        self,
        micro_batches: Sequence[T],
        forward_loss: Callable[[GPTModel, T], Tensor],
        shape: tuple[int, int] | None = None,
    ) -> Tensor:
        """Add the gradients of all micro-batches and reduce them; returns the sum of the losses.

        `forward_loss` returns a scalar that already holds the normaliser of the global batch;
        nothing divides it again. From a chunk that is not the last of the model it returns the
        chunk's output in its place, and all micro-batches have the one `shape`, (rows, tokens). The
        returned sum is the share of this rank's pipeline, detached, float32: the loss of the global
        batch is its sum over the data axis.
        """

        def forward_step(batches: Iterator[T], ddp: Any) -> tuple[Tensor, Callable[..., Any]]:
            return forward_loss(ddp.module, next(batches)), self._report

        losses = run_schedule(self._ddps, micro_batches, forward_step, shape=shape)
        loss = torch.zeros((), device=self._mesh.device)
        if losses:
            loss = torch.stack(losses).sum()
        if self._mesh.pipeline_size > 1:
            torch.distributed.all_reduce(loss, group=self._mesh.pipeline_group)
        return loss

    def step(self, *, is_finite: bool = True) -> float:
        """Advance the schedule, clip, update, clear the gradients; returns the gradient's norm.

        The norm is taken before clipping, over the whole model, the same on every rank. Where it,
        or what the gradient is of, is not finite, nothing is updated: neither parameters nor Adam's
        state change.
        """
        self._scheduler.step(1)
        with platform.megatron_calls():
            self._optimizer.prepare_grads()
            grad_norm = float(self._optimizer.get_grad_norm())
            if is_finite and math.isfinite(grad_norm):
                self._optimizer.step()
            self._optimizer.zero_grad()
            for ddp in self._ddps:
                ddp.zero_grad_buffer()
        return grad_norm

    def gather_gradients(self) -> None:
        """Bring every rank the whole sums of `forward_backward`: with a distributed optimizer a
        rank has only those of the shard that it updates."""
        if not self._is_distributed:
            return
        for buffer in self._buffers:
            group = buffer.data_parallel_group
            for bucket in buffer.buckets:
                shard = bucket.grad_data.chunk(group.size())[group.rank()].clone()
                torch.distributed.all_gather_into_tensor(bucket.grad_data, shard, group=group)

    def gradients(self) -> list[Tensor]:
        """The buffers that they are summed in."""
        return [buffer.grad_data for buffer in self._buffers]

    def resident_tensors(self) -> list[Tensor]:
        """What training keeps on the device: gradients, main parameters, Adam's moments so far.

        With float32 parameters the main ones share storage with the model's. Adam makes its
        moments in the first update.
        """
        mains = [parameter for *_, parameter in self._main_parameters()]
        states = [
            value
            for adam in self._adams
            for state in adam.state.values()
            for value in state.values()
        ]
        return self.gradients() + mains + states

    def state_apart(self) -> list[Tensor]:
        """Of what Adam keeps on this rank the tensors with storage of their own: its moments so
        far, and main parameters where they are float32 copies."""
        of_model = {
            parameter.untyped_storage()._cdata
            for chunk in self.chunks
            for parameter in chunk.parameters()
        }
        mains = [
            main
            for *_, main in self._main_parameters()
            if main.untyped_storage()._cdata not in of_model
        ]
        moments = [
            value
            for adam in self._adams
            for state in adam.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.dim() > 0
        ]
        return mains + moments

    def main_pieces(self) -> list[MainPiece]:
        """What this rank updates of each parameter that is trained."""
        return list(main_pieces(self._links, self._buffers, self._is_distributed))

    def owned_pieces(self) -> list[list[int]]:
        """For each place on the data axis, the elements of each piece of a parameter it updates.

        A distributed optimizer cuts the gradient buffer into equal shards wherever a parameter or
        padding lies (megatron/core/optimizer/distrib_optimizer.py); without it the places are alike
        and the first one's pieces are given. Experts that not all ranks hold are left out: theirs
        is another axis.
        """
        buffers = [buffer for ddp in self._ddps for buffer in ddp.buffers]
        num_ranks = buffers[0].data_parallel_world_size if self._is_distributed else 1
        pieces = [[] for _ in range(num_ranks)]
        for buffer in buffers:
            shard = buffer.numel // num_ranks
            for start, end, _ in buffer.param_index_map.values():
                for rank in range(start // shard, (end - 1) // shard + 1):
                    pieces[rank].append(min(end, (rank + 1) * shard) - max(start, rank * shard))
        return pieces

    def progress(self) -> dict[str, Tensor]:
        """How far it is: the schedule's step, and Adam's, where that is one for all."""
        steps = [group["step"] for _, group in self._groups() if "step" in group]
        counted = {"adam.step": torch.as_tensor(steps[0])} if steps else {}
        return {"scheduler.num_steps": torch.tensor(self._scheduler.num_steps), **counted}

    def go_on(self, progress: Mapping[str, Tensor]) -> None:
        """Count on from where `progress` was taken, in any layout."""
        self._scheduler.num_steps = int(progress["scheduler.num_steps"])
        self._scheduler.step(0)
        if "adam.step" in progress:
            for _, group in self._groups():
                group["step"] = int(progress["adam.step"])

    def publish_main_parameters(self) -> None:
        """Bring the model's parameters in line with the main ones, over the data axis too."""
        with torch.no_grad(), platform.megatron_calls():
            for link in self._links:
                if hasattr(link, "_copy_main_params_to_model_params"):
                    link._copy_main_params_to_model_params()
            if self._is_distributed:
                for ddp in self._ddps:
                    ddp.start_param_sync(force_sync=True)

    def home_of(self, value: Tensor, adam: torch.optim.Optimizer) -> torch.device | str:
        """Adam keeps moments on the device, and step counters on the host if it is not fused."""
        is_there = value.dim() > 0 or adam.param_groups[0].get("fused")
        return self._mesh.device if is_there else "cpu"

    @property
    def _buffers(self) -> list[Any]:
        """Megatron's gradient buffers: one a chunk, and one a chunk for experts that not all ranks
        of the stage hold."""
        return [
            buffer for ddp in self._ddps for buffer in ddp.buffers + ddp.expert_parallel_buffers
        ]

    @property
    def _is_distributed(self) -> bool:
        return self._ddps[0].ddp_config.use_distributed_optimizer

    @property
    def _links(self) -> list[Any]:
        """Megatron's chain of optimizers: the last is that of experts that not all ranks of the
        stage hold, if there are such, the first that of every other parameter, if one is trained;
        one of none has no Adam and is left out."""
        return [link for link in self._optimizer.chained_optimizers if link.optimizer is not None]

    @property
    def _adams(self) -> list[torch.optim.Optimizer]:
        return [link.optimizer for link in self._links]

    def _groups(self) -> Iterator[tuple[torch.optim.Optimizer, dict[str, Any]]]:
        """The groups of parameters of all optimizers."""
        for adam in self._adams:
            for group in adam.param_groups:
                yield adam, group

    def _main_parameters(self) -> Iterator[tuple[str, torch.optim.Optimizer, Tensor]]:
        """What Adam updates on this rank, named, with the Adam that does: parameters, float32
        copies, or shards of them."""
        for group_index, (adam, group) in enumerate(self._groups()):
            for index, parameter in enumerate(group["params"]):
                yield f"group{group_index}.{index}", adam, parameter

    def _report(self, loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Megatron's loss triple; the token count goes unused, as losses are sums already."""
        unused = torch.zeros((), dtype=torch.int, device=self._mesh.device)
        return loss, unused, loss.detach().clone()


def _finalize_sums(model: list[Any], _: Tensor, **groups: Any) -> None:
    """Reduce gradients as sums, without Megatron's division by a token count."""
    finalize_model_grads(model, None, **groups)
