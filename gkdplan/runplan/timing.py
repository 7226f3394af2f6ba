"""How long a step is predicted to take: figures for ranking layouts, none of them measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from gkdplan.vocab import Phase


@dataclass(frozen=True, slots=True)
class Seconds:
    """A prediction under favourable, likely and unfavourable assumptions."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a phase's likely seconds, by its name: "compute", "bubble", ..."""

    phase: Phase
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Assumption:
    """A figure that no table gives, in its favourable, likely and unfavourable value."""

    name: str
    low: float
    likely: float
    high: float


@dataclass(frozen=True, slots=True)
class Timing:
    """One global batch whose rows all have their longest length.

    `phases` are those of a step that has them; `step` is the mean over the draw of sources, in
    which sampling falls on `sampled_share` of the steps. Evaluation and checkpoints are left out.
    `tokens_per_s` counts the tokens that go through the student on all ranks, prompts included.
    """

    phases: Mapping[Phase, Seconds]
    step: Seconds
    sampled_share: float
    tokens_per_s: float
    terms: tuple[Term, ...]
    assumptions: tuple[Assumption, ...]
