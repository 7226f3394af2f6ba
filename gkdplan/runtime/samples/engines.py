"""What draws the samples: one of the two models, in the plan's layout."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import ModelPlan
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.data.sight import images_of, pixels_of, positions_of_prompts
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.adapters import merged_tensors
from gkdplan.runtime.megatron.config import TORCH_DTYPES
from gkdplan.runtime.megatron.generate import generate
from gkdplan.runtime.megatron.mesh import Mesh, init_mesh, init_teacher_mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.weights import draw_weights, load_weights
from gkdplan.runtime.model_files import model_directory
from gkdplan.runtime.residency import Residency
from gkdplan.runtime.rollout.engine import Request, RolloutEngine, SampleEngine
from gkdplan.runtime.sampler import open_engine
from gkdplan.runtime.teacher.server_samples import ServedSampler
from gkdplan.runtime.vision.images import Eyes
from gkdplan.runtime.vision.pixels import Pixels
from gkdplan.vocab import Engine, Role


class Sampler(Protocol):
    """What draws the samples, seen from one rank."""

    def share(self, num_rows: int) -> range:
        """As of `SampleEngine`."""

    def draw(
        self, examples: Sequence[Example], seeds: Sequence[int], sampling: Sampling
    ) -> list[Sequence[int]]:
        """One response to each example of the share, of its seed, in order; collective."""


@dataclass(frozen=True, slots=True)
class OwnModules:
    """Megatron's own generation: `chunks` of the model on this rank, of the layout `degrees`, whose
    `eyes` are open where its tower is."""

    chunks: Sequence[Any]
    degrees: AxisDegrees
    mesh: Mesh
    stop_ids: frozenset[int]
    vocab_size: int
    eyes: Eyes | None = None

    def share(self, num_rows: int) -> range:
        """Neighbouring rows, as many as every other rank of the data axis has."""
        assert num_rows % self.degrees.data == 0
        size = num_rows // self.degrees.data
        start = self.degrees.place_of(self.mesh.rank).data * size
        return range(start, start + size)

    def draw(
        self, examples: Sequence[Example], seeds: Sequence[int], sampling: Sampling
    ) -> list[Sequence[int]]:
        """Collective over the ranks of the model."""

        def look(rows: Sequence[int]) -> Pixels | None:
            return pixels_of([examples[row] for row in rows], self.eyes, self.mesh.device)

        drawn = generate(
            self.chunks,
            [example.prompt for example in examples],
            seeds,
            sampling,
            stop_ids=self.stop_ids,
            vocab_size=self.vocab_size,
            look=look,
            positions=positions_of_prompts(examples, self.eyes),
        )
        return [*drawn]


@dataclass(frozen=True, slots=True)
class AskedEngine:
    """An engine outside of Megatron's modules, of a model that sees with `eyes` in `dtype`."""

    engine: SampleEngine
    eyes: Eyes | None
    dtype: torch.dtype

    def share(self, num_rows: int) -> range:
        """The engine's."""
        return self.engine.share(num_rows)

    def draw(
        self, examples: Sequence[Example], seeds: Sequence[int], sampling: Sampling
    ) -> list[Sequence[int]]:
        """Raises UserError as the engine does."""
        requests = [
            Request(e.prompt, seed, e.teacher, images_of(e, self.eyes, self.dtype))
            for e, seed in zip(examples, seeds, strict=True)
        ]
        return [one.tokens for one in self.engine.generate(requests, sampling)]


@contextmanager
def open_sampler(
    plan: RunPlan, role: Role, chat: Chat, tell: Callable[[str], None]
) -> Iterator[Sampler]:
    """The servers of a teacher that has some; vllm, where the plan has it draw the student's
    samples; else Megatron's own generation. Collective over all ranks.

    Needs `platform.prepare` and an initialised default process group. Raises UserError for what
    the user can mend.
    """
    server, dtype = plan.models.teacher.server, TORCH_DTYPES[getattr(plan.models, role).dtype]
    if role is Role.TEACHER and server is not None:
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
        yield AskedEngine(
            ServedSampler(plan, server, chat.stop_ids, rank, num_ranks), chat.eyes, dtype
        )
        return
    own = _open_own_modules(plan, role, chat)
    if role is Role.TEACHER or plan.sampling.engine is not Engine.VLLM:
        yield own
        return
    engine = _with_weights_of(own, plan, chat, tell)
    yield AskedEngine(engine, chat.eyes, dtype)
    engine.close()


def _with_weights_of(
    own: OwnModules, plan: RunPlan, chat: Chat, tell: Callable[[str], None]
) -> RolloutEngine:
    """The plan's engine, refitted once with the student's weights."""
    student, mesh = plan.models.student, own.mesh
    meter = LiveBytes(mesh.device)
    source = model_directory(Role.STUDENT, student.model, student.revision)
    residency = Residency(mesh.device, meter)
    engine = open_engine(plan, mesh, chat, source, own.chunks, residency, meter, tell)
    assert engine is not None
    engine.refit(merged_tensors(own.chunks, student, mesh), version=0)
    return engine


def _open_own_modules(plan: RunPlan, role: Role, chat: Chat) -> OwnModules:
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
    eyes = chat.eyes if chat.eyes is None or mesh.pipeline_rank == 0 else chat.eyes.closed
    return OwnModules(chunks, degrees, mesh, chat.stop_ids, plan.models.vocab_size, eyes)
