"""What draws the samples: one of the two models, in the plan's layout."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import ModelPlan, RunPlan
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.adapters import merged_tensors
from gkdplan.runtime.megatron.generate import generate
from gkdplan.runtime.megatron.mesh import Mesh, init_mesh, init_teacher_mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.weights import draw_weights, load_weights
from gkdplan.runtime.model_files import model_directory
from gkdplan.runtime.residency import Residency
from gkdplan.runtime.rollout.engine import Completion, Request, RolloutEngine, SampleEngine
from gkdplan.runtime.sampler import open_engine
from gkdplan.runtime.teacher.server_samples import ServedSampler
from gkdplan.vocab import Engine, Role


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


@contextmanager
def sample_engine(
    plan: RunPlan, role: Role, chat: Chat, tell: Callable[[str], None]
) -> Iterator[SampleEngine]:
    """The servers of a teacher that has some; vllm, where the plan has it draw the student's
    samples; else Megatron's own generation. Collective over all ranks.

    Needs `platform.prepare` and an initialised default process group. Raises UserError for what
    the user can mend.
    """
    server = plan.models.teacher.server
    if role is Role.TEACHER and server is not None:
        yield ServedSampler(plan, server, chat.stop_ids, dist.get_rank(), dist.get_world_size())
        return
    own, mesh = _open_own_modules(plan, role, chat)
    if role is Role.TEACHER or plan.sampling.engine is not Engine.VLLM:
        yield own
        return
    engine = _with_weights_of(own, plan, chat, mesh, tell)
    yield engine
    engine.close()


def _with_weights_of(
    own: OwnModules, plan: RunPlan, chat: Chat, mesh: Mesh, tell: Callable[[str], None]
) -> RolloutEngine:
    """The plan's engine, refitted once with the student's weights."""
    student, meter = plan.models.student, LiveBytes(mesh.device)
    source = model_directory(Role.STUDENT, student.model, student.revision)
    residency = Residency(mesh.device, meter)
    engine = open_engine(plan, mesh, chat, source, own.chunks, residency, meter, tell)
    assert engine is not None
    engine.refit(merged_tensors(own.chunks, student, mesh), version=0)
    return engine


def _open_own_modules(plan: RunPlan, role: Role, chat: Chat) -> tuple[OwnModules, Mesh]:
    """The weights of `role`'s model, loaded or drawn as the plan says."""
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
    return OwnModules(chunks, degrees, mesh.rank, chat.stop_ids, plan.models.vocab_size), mesh
