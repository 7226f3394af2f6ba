"""The schedule of what leaves the device between its uses, and what the traffic costs."""

from collections.abc import Sequence

from gkdplan.facts.model import Device
from gkdplan.planner.draft import Draft, sampling_roles
from gkdplan.planner.memory.buffer import TEACHER_BODY, Buffer
from gkdplan.runplan.steps import Move
from gkdplan.vocab import Phase, Role, Tier

PINNED_EFFICIENCY = 0.8
"""The share of a link's bandwidth that a copy from pinned host memory reaches."""


def schedule_offload(draft: Draft, buffers: Sequence[Buffer], device: Device) -> tuple[Move, ...]:
    """The moves of one step, in order: at its end every object is where it was at its beginning.

    With `teacher.offload` the teacher's body is fetched before the first phase that uses it and
    returned after the teacher phase. Its host copy never changes, so the return only frees the
    device and takes no time.
    """
    if draft.models.teacher.offload is not Tier.HOST:
        return ()
    num_bytes = _teacher_body_bytes(buffers)
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


def host_bytes_per_node(draft: Draft, buffers: Sequence[Buffer]) -> int:
    """Pinned host memory of one node: every rank keeps its shard of what is offloaded."""
    if draft.models.teacher.offload is not Tier.HOST:
        return 0
    return _teacher_body_bytes(buffers) * draft.layout.devices_per_node


def _teacher_body_bytes(buffers: Sequence[Buffer]) -> int:
    """Of the body that stays; evaluation fetches the same once more, for a moment."""
    return next(b.num_bytes for b in buffers if b.name == TEACHER_BODY and b.moment is None)
