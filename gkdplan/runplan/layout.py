"""Which rank does what: the mesh of each model over the same ranks."""

from dataclasses import dataclass, replace

from gkdplan.runplan.rendezvous import USUAL, Rendezvous
from gkdplan.vocab import Kernels


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank stands on the axes of a model's mesh."""

    tensor: int
    context: int
    data: int
    stage: int


@dataclass(frozen=True, slots=True)
class AxisDegrees:
    """Degrees of a model's mesh: tensor x pipeline x context x data is the world size, and of its
    experts expert_tensor x expert x pipeline x expert_data."""

    tensor: int
    sequence: bool
    data: int
    pipeline: int = 1
    virtual_pipeline: int = 1
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1

    @property
    def expert_data(self) -> int:
        """Ranks that hold the same experts."""
        ranks_of_a_stage = self.tensor * self.context * self.data
        return ranks_of_a_stage // (self.expert_tensor * self.expert)

    def rank_at(self, place: Place) -> int:
        """Megatron's order, tensor fastest, then context, data and pipeline
        (megatron/core/parallel_state.py)."""
        of_stage = place.data + self.data * place.stage
        return place.tensor + self.tensor * (place.context + self.context * of_stage)

    def place_of(self, rank: int) -> Place:
        """The inverse of `rank_at`."""
        rest, tensor = divmod(rank, self.tensor)
        rest, context = divmod(rest, self.context)
        stage, data = divmod(rest, self.data)
        return Place(tensor, context, data, stage)

    def contexts_of(self, start: int, end: int) -> range:
        """Places on the context axis of ranks `start` to `end`, counted on past its end."""
        first, last = start // self.tensor, (end - 1) // self.tensor
        return range(
            first % self.context, first % self.context + min(self.context, last - first + 1)
        )


@dataclass(frozen=True, slots=True)
class RankClass:
    """Ranks that hold and do the same, as half-open runs of rank numbers; `stage` is the
    student's."""

    ranks: tuple[tuple[int, int], ...]
    stage: int
    teacher_stage: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """All ranks, and the mesh of each model over them; `backend` is torch.distributed's, and
    `kernels` are of both models."""

    device: str
    backend: str
    kernels: Kernels
    num_nodes: int
    devices_per_node: int
    world_size: int
    student: AxisDegrees
    teacher: AxisDegrees
    classes: tuple[RankClass, ...]
    rendezvous: Rendezvous = USUAL

    @property
    def is_resharded(self) -> bool:
        """Whether the teacher may end on other ranks, or with other rows, tokens or entries of the
        vocabulary, than the student's loss needs there: the axes of experts cut neither."""
        ends = [
            replace(degrees, virtual_pipeline=1, expert=1, expert_tensor=1)
            for degrees in (self.student, self.teacher)
        ]
        return ends[0] != ends[1]
