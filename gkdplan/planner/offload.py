"""The schedule of what leaves the device between its uses, and what the traffic costs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft, engine_of, sampling_roles
from gkdplan.planner.memory.buffer import (
    ENGINE_WEIGHTS,
    KV_CACHE,
    STUDENT_GRADS,
    STUDENT_PARAMS,
    STUDENT_STATE,
    TEACHER_BODY,
    Buffer,
)
from gkdplan.planner.memory.checkpoint import state_bytes, student_bytes
from gkdplan.planner.memory.rank import rank_of_class
from gkdplan.planner.memory.teacher import average_bytes, body_bytes
from gkdplan.runplan.layout import Layout
from gkdplan.runplan.steps import Move
from gkdplan.vocab import Engine, Phase, Role, Tier

PINNED_EFFICIENCY = 0.8
"""The share of a link's bandwidth that a copy from pinned host memory reaches."""
_PLACES = list(Phase)


@dataclass(frozen=True, slots=True)
class Visit:
    """An object that waits at `home` and is on the device from before the steps of phase `first`
    until before those of phase `until`; coming or leaving, its bytes travel or they do not."""

    object: str
    home: Tier
    first: Phase
    until: Phase
    is_copied_in: bool
    is_copied_out: bool


def visits(draft: Draft) -> tuple[Visit, ...]:
    """The objects that are not on the device all the time.

    The teacher's body never changes, so its return only frees the device; one that is streamed
    comes and goes within the forward. The optimizer's state
    changes in every update, and is copied both ways. An engine that sleeps at level 1 copies its
    weights to the host each time (vllm/device_allocator/cumem.py), at level 2 it forgets them, as
    the refit writes them anew; its cache is forgotten at both. Gradients are zero between an update
    and the next backward, and are made anew; the student's parameters are away while only the
    teacher or an engine works, which is in the middle of a step.
    """
    return tuple(_visits(draft))


def _visits(draft: Draft) -> Iterator[Visit]:
    if draft.models.teacher.offload is Tier.HOST and not draft.models.teacher.stream:
        samples = any(role is Role.TEACHER for _, role in sampling_roles(draft))
        first = Phase.GENERATE if samples else Phase.TEACHER
        yield Visit(TEACHER_BODY, Tier.HOST, first, Phase.STUDENT, True, False)
    engine = draft.sampling.vllm
    if engine is not None and engine.sleep_level > 0:
        waits = engine.sleep_level == 1
        home = Tier.HOST if waits else Tier.DROPPED
        yield Visit(ENGINE_WEIGHTS, home, Phase.REFIT, Phase.TEACHER, waits, waits)
        yield Visit(KV_CACHE, Tier.DROPPED, Phase.GENERATE, Phase.TEACHER, False, False)
    student = draft.models.student
    if student.idle_params is Tier.HOST:
        leaves = _student_rests(draft)
        yield Visit(STUDENT_PARAMS, Tier.HOST, Phase.STUDENT, leaves, True, True)
    if student.idle_grads is Tier.DROPPED:
        dropped = Tier.DROPPED
        yield Visit(STUDENT_GRADS, dropped, Phase.STUDENT, Phase.CHECKPOINT, False, False)
    if draft.optimizer.offload is Tier.HOST:
        yield Visit(STUDENT_STATE, Tier.HOST, Phase.OPTIMIZER, Phase.CHECKPOINT, True, True)


def _student_rests(draft: Draft) -> Phase:
    """The first phase from which on nothing reads the student's parameters before its own: samples
    are drawn by its own modules, or by an engine that has its weights by then; those of the next
    step are sent for after those of this one are there."""
    engines = {role: engine_of(draft, role) for _, role in sampling_roles(draft)}
    reads = engines.get(Role.STUDENT) is Engine.MEGATRON or draft.sampling.staleness > 0
    return Phase.TEACHER if reads or not engines else Phase.GENERATE


def schedule_offload(
    draft: Draft, buffers: Sequence[Sequence[Buffer]], device: Device
) -> tuple[Move, ...]:
    """The moves of one step, in order: at its end every object is where it was at its beginning.

    `buffers` are those of each class of ranks. Every rank moves its own share; bytes and seconds
    are those of the largest share, which the other ranks wait for. Before a phase what leaves goes
    first, and makes room for what comes.
    """
    return in_order(m for visit in visits(draft) for m in _moves(visit, buffers, device))


def in_order(moves: Iterable[Move]) -> tuple[Move, ...]:
    """By phase, and before a phase what leaves first."""
    return tuple(
        sorted(moves, key=lambda move: (_PLACES.index(move.phase), move.to_tier is Tier.DEVICE))
    )


def _moves(visit: Visit, buffers: Sequence[Sequence[Buffer]], device: Device) -> Iterator[Move]:
    num_bytes = max(bytes_of(visit.object, of_class) for of_class in buffers)
    copy_s = num_bytes / (PINNED_EFFICIENCY * device.host_link_bandwidth)
    come_s, leave_s = copy_s * visit.is_copied_in, copy_s * visit.is_copied_out
    yield Move(visit.first, visit.object, visit.home, Tier.DEVICE, num_bytes, come_s)
    yield Move(visit.until, visit.object, Tier.DEVICE, visit.home, num_bytes, leave_s)


def host_bytes_per_node(draft: Draft, buffers: Sequence[Sequence[Buffer]]) -> int:
    """Host memory of the fullest node: every rank keeps its share of what is offloaded, pinned, and
    copies of what a checkpoint has if it is written beside later steps, the first the student's.

    A node is `devices_per_node` ranks in a row, so stages can meet in it.
    """
    objects = [visit.object for visit in visits(draft) if visit.home is Tier.HOST]
    of_nodes: Counter[int] = Counter()
    saves_beside = draft.training.async_save
    if saves_beside:
        of_nodes[0] += student_bytes(draft.models.student)
    for rank_class, of_class in zip(draft.layout.classes, buffers, strict=True):
        num_bytes = sum(bytes_of(name, of_class) for name in objects)
        if draft.models.teacher.stream:
            num_bytes += body_bytes(rank_of_class(draft, rank_class))
        if draft.models.teacher.offload is Tier.HOST:
            num_bytes += average_bytes(rank_of_class(draft, rank_class))
        if saves_beside:
            owned = rank_of_class(draft, rank_class).state.owned_elements
            num_bytes += state_bytes(draft, owned)
        for run in rank_class.ranks:
            for node, num_ranks in _ranks_of_nodes(run, draft.layout):
                of_nodes[node] += num_ranks * num_bytes
    return max(of_nodes.values())


def _ranks_of_nodes(run: tuple[int, int], layout: Layout) -> Iterator[tuple[int, int]]:
    """The first, the second and the last node that a run of ranks reaches, and its ranks there: the
    nodes between are as the second."""
    start, end = run
    size = layout.devices_per_node
    first, last = start // size, (end - 1) // size
    for node in sorted({first, min(first + 1, last), last}):
        yield node, min(end, (node + 1) * size) - max(start, node * size)


def bytes_of(name: str, buffers: Sequence[Buffer]) -> int:
    """Of an object that stays; what is there for one moment does not move."""
    return sum(b.num_bytes for b in buffers if b.name == name and b.moment is None)
