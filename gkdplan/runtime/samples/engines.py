"""What draws the samples: one of the two models, in the plan's layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import ModelPlan, RunPlan
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.megatron.generate import generate
from gkdplan.runtime.megatron.mesh import init_mesh, init_teacher_mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.weights import draw_weights, load_weights
from gkdplan.runtime.model_files import model_directory
from gkdplan.runtime.rollout.engine import Completion, Request, SampleEngine
from gkdplan.runtime.teacher.server_samples import ServedSampler
from gkdplan.vocab import Role


@dataclass(frozen=True, slots=True)
class OwnModules:
    """Megatron's own generation: `chunks` of the model on this rank, of the layout `degrees`."""

    chunks: Sequence[Any]
    degrees: AxisDegrees
    rank: int
    stop_ids: frozenset[int]
    vocab_size: int

    def share(self, num_rows: int) -> range:
        """Neighbouring rows, as many as every other rank of the data axis has."""
        assert num_rows % self.degrees.data == 0
        size = num_rows // self.degrees.data
        start = self.degrees.place_of(self.rank).data * size
        return range(start, start + size)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Collective over the ranks of the model."""
        drawn = generate(
            self.chunks,
            [request.prompt for request in requests],
            [request.seed for request in requests],
            sampling,
            stop_ids=self.stop_ids,
            vocab_size=self.vocab_size,
        )
        return [Completion(tuple(tokens), weights_version=0) for tokens in drawn]


def open_sample_engine(plan: RunPlan, role: Role, chat: Chat) -> SampleEngine:
    """The servers of a teacher that has some, else `open_own_modules`."""
    server = plan.models.teacher.server
    if role is Role.TEACHER and server is not None:
        return ServedSampler(plan, server, chat.stop_ids, dist.get_rank(), dist.get_world_size())
    return open_own_modules(plan, role, chat)


def open_own_modules(plan: RunPlan, role: Role, chat: Chat) -> OwnModules:
    """The weights of `role`'s model, loaded or drawn as the plan says, on every rank.

    Needs `platform.prepare` and an initialised default process group. Raises UserError for what
    the user can mend.
    """
    mesh = init_mesh(plan.layout, plan.training.seed)
    if role is Role.TEACHER:
        mesh = init_teacher_mesh(plan.layout, mesh)
    model: ModelPlan = getattr(plan.models, role)
    degrees: AxisDegrees = getattr(plan.layout, role)
    chunks = build_chunks(model, degrees, mesh, trainable=False)
    if model.init == "random":
        draw_weights(chunks, model, mesh, plan.training.seed)
    else:
        load_weights(chunks, model_directory(role, model.model, model.revision), model, mesh)
    return OwnModules(chunks, degrees, mesh.rank, chat.stop_ids, plan.models.vocab_size)
