"""The schedule of what leaves the device between its uses, and what the traffic costs."""

from collections import Counter
from collections.abc import Iterator, Sequence

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft, sampling_roles
from gkdplan.planner.memory.buffer import TEACHER_BODY, Buffer
from gkdplan.runplan.model import Layout
from gkdplan.runplan.steps import Move
from gkdplan.vocab import Phase, Role, Tier

PINNED_EFFICIENCY = 0.8
"""The share of a link's bandwidth that a copy from pinned host memory reaches."""


def schedule_offload(
    draft: Draft, buffers: Sequence[Sequence[Buffer]], device: Device
) -> tuple[Move, ...]:
    """The moves of one step, in order: at its end every object is where it was at its beginning.

    `buffers` are those of each class of ranks. Every rank moves its own share; bytes and seconds
    are those of the largest share, which the other ranks wait for.

    With `teacher.offload` the teacher's body is fetched before the first phase that uses it and
    returned after the teacher phase. Its host copy never changes, so the return only frees the
    device and takes no time.
    """
    if draft.models.teacher.offload is not Tier.HOST:
        return ()
    num_bytes = max(map(_teacher_body_bytes, buffers))
    samples = any(role is Role.TEACHER for _, role in sampling_roles(draft))
    fetch = Move(
        phase=Phase.GENERATE if samples else Phase.TEACHER,
        object=TEACHER_BODY,
        from_tier=Tier.HOST,
        to_tier=Tier.DEVICE,
        num_bytes=num_bytes,
        seconds=num_bytes / (PINNED_EFFICIENCY * device.host_link_bandwidth),
    )
    release = Move(
        phase=Phase.STUDENT,
        object=TEACHER_BODY,
        from_tier=Tier.DEVICE,
        to_tier=Tier.HOST,
        num_bytes=num_bytes,
        seconds=0.0,
    )
    return fetch, release


def host_bytes_per_node(draft: Draft, buffers: Sequence[Sequence[Buffer]]) -> int:
    """Pinned host memory of the fullest node: every rank keeps its share of what is offloaded.

    A node is `devices_per_node` ranks in a row, so stages can meet in it.
    """
    if draft.models.teacher.offload is not Tier.HOST:
        return 0
    of_nodes: Counter[int] = Counter()
    for rank_class, of_class in zip(draft.layout.classes, buffers, strict=True):
        num_bytes = _teacher_body_bytes(of_class)
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


def _teacher_body_bytes(buffers: Sequence[Buffer]) -> int:
    """Of the body that stays; evaluation fetches the same once more, for a moment."""
    return sum(b.num_bytes for b in buffers if b.name == TEACHER_BODY and b.moment is None)
