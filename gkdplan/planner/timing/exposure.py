"""Which seconds of a step's copies pass beside other work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gkdplan.runplan.steps import Move
from gkdplan.vocab import Phase, Tier

SAMPLED = (Phase.REFIT, Phase.GENERATE)
"""Phases of the steps that sample, and of no other."""


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of each phase of a step that has it, moves left out.

    `sampled_share` of the steps sample. Where device and host are one memory `hides_copies` is
    False: the cores that work are those that copy.
    """

    seconds: Mapping[Phase, float]
    sampled_share: float
    hides_copies: bool

    @property
    def step_s(self) -> float:
        """The mean over the draw of sources."""
        return sum(
            seconds * (self.sampled_share if phase in SAMPLED else 1.0)
            for phase, seconds in self.seconds.items()
        )


def hidden_s(moves: Sequence[Move], work: Work) -> tuple[float, ...]:
    """The hidden seconds of each move, in the mean over the draw of sources.

    The two directions of a link do not hinder each other. In one direction copies follow each
    other, the first that is due first.
    """
    if not work.hides_copies:
        return (0.0,) * len(moves)
    without = {p: s for p, s in work.seconds.items() if p not in SAMPLED}
    share = work.sampled_share
    steps = zip(_hidden_s(moves, work.seconds), _hidden_s(moves, without), strict=True)
    return tuple(share * sampled + (1 - share) * other for sampled, other in steps)


def _hidden_s(moves: Sequence[Move], seconds: Mapping[Phase, float]) -> list[float]:
    order = tuple(Phase)
    left = {Tier.DEVICE: dict(seconds), Tier.HOST: dict(seconds)}
    hidden = [0.0] * len(moves)
    overlapped = [index for index, move in enumerate(moves) if move.due is not None]
    for index in sorted(overlapped, key=lambda index: order.index(moves[index].due or order[0])):
        move = moves[index]
        for phase in move.beside:
            room = left[move.to_tier]
            passed = min(move.seconds - hidden[index], room.get(phase, 0.0))
            room[phase] = room.get(phase, 0.0) - passed
            hidden[index] += passed
    return hidden
