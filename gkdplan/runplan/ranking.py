"""What a search found: layouts of one plan, the fastest first. All seconds are predicted."""

from dataclasses import dataclass

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import Recompute
from gkdplan.vocab import Phase, Tier, Verdict

Value = str | int | bool | tuple[str | int, ...] | None
"""What a key is set to; None removes it."""


@dataclass(frozen=True, slots=True)
class Option:
    """One layout with its memory and time; bytes are those of the fullest rank.

    `runs` says whether `gkdplan run` runs it already, or it is only planned. `changes` are the
    keys of the plan that it sets, and None where it removes one. Tiers are those of what nothing
    reads at the moment.
    """

    student: AxisDegrees
    teacher: AxisDegrees
    micro_rows: int
    recompute: Recompute
    teacher_offload: Tier
    optimizer_offload: Tier
    peak_bytes: int
    peak_phase: Phase
    budget_bytes: int
    host_bytes_per_node: int
    verdict: Verdict
    step_s: float
    tokens_per_s: float
    runs: bool
    changes: tuple[tuple[str, Value], ...]
    teacher_streamed: bool = False
    student_grads: Tier = Tier.DEVICE
    student_params: Tier = Tier.DEVICE


@dataclass(frozen=True, slots=True)
class Dropped:
    """The fastest layout that does not fit: bytes that it lacks, on the device and on the host."""

    option: Option
    device_bytes: int
    host_bytes: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Candidates: `considered` is the sum of the others and of the options.

    `rules` are the codes of the rules that `against_rules` broke, each candidate under one of them;
    `planned` are left out because `gkdplan run` does not run them yet; `over` were passed over
    because they do not fit; `slower` come after the last option and were not priced.
    """

    considered: int
    against_rules: int
    planned: int
    over: int
    slower: int
    rules: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """`options` by `step_s`. `own` is the plan's own layout, None where it breaks a rule."""

    counts: Counts
    options: tuple[Option, ...]
    dropped: Dropped | None
    own: Option | None
