"""The typed step list of one global batch: what the outline prints and what the executor runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gkdplan.vocab import Engine, Payload, Phase, Role, Source, Tier


@dataclass(frozen=True, slots=True)
class Draw:
    """Pick the step's source with one uniform number from (seed, step)."""

    seed: int
    lmbda: float
    seq_kd: float


@dataclass(frozen=True, slots=True)
class Refit:
    """Where the draw fell on the student's samples, and they were not drawn ahead, its weights
    travel to the engine, `num_bytes` in buckets of `bucket_bytes`; what the engine has cached of
    prompts is forgotten."""

    num_bytes: int
    bucket_bytes: int


@dataclass(frozen=True, slots=True)
class GenerateAhead:
    """Where the next step's draw falls on the student's samples, its weights travel as in `Refit`,
    and its servers draw them while this step trains; that step has no other refit."""

    bucket_bytes: int
    num_rows: int
    """Of the global batch."""
    max_completion_length: int


@dataclass(frozen=True, slots=True)
class Generate:
    """Where the draw fell on `source`, `role` samples a response to each of the rank's prompts.

    `engine` carries it out: Megatron's own generation from the weights on the ranks; or vllm, which
    for the student is the plan's, and for a teacher the one behind its server.
    """

    source: Source
    role: Role
    engine: Engine
    rows_per_rank: int
    max_completion_length: int


@dataclass(frozen=True, slots=True)
class TakeSamples:
    """Where the draw fell on `source`, the responses to each of the rank's prompts are taken from
    the file at `path`."""

    source: Source
    path: str
    rows_per_rank: int


@dataclass(frozen=True, slots=True)
class Move:
    """An object changes tier before the steps of `phase`; bytes and seconds are those of the rank
    that moves most.

    With `due` only the copy begins there, and is complete before the steps of `due`: in the next
    step, where `due` is no later phase. The object is on the device all the while. Of the seconds
    `hidden_s` pass beside the work of other phases, in the mean over the draw of sources.
    """

    phase: Phase
    object: str
    from_tier: Tier = field(metadata={"json": "from"})
    to_tier: Tier = field(metadata={"json": "to"})
    num_bytes: int = field(metadata={"json": "bytes"})
    seconds: float
    due: Phase | None = None
    hidden_s: float = 0.0

    @property
    def exposed_s(self) -> float:
        """Seconds in which nothing else runs."""
        return self.seconds - self.hidden_s

    @property
    def beside(self) -> tuple[Phase, ...]:
        """The phases beside which the copy runs, in order."""
        if self.due is None:
            return ()
        order = tuple(Phase)
        start, end = order.index(self.phase), order.index(self.due)
        return order[start:end] if start < end else order[start:] + order[:end]


@dataclass(frozen=True, slots=True)
class Await:
    """The steps of `phase` begin when the copy of `object` that is under way is complete."""

    phase: Phase
    object: str


@dataclass(frozen=True, slots=True)
class TeacherForward:
    """The teacher's forward over all micro-batches; what the loss needs of it is kept."""

    num_micro_batches: int
    payload: Payload
    max_tokens: int
    """Response tokens of the rank's rows at most."""
    width: int
    """Elements a token: the hidden size, or the rank's share of the padded vocabulary."""
    streamed_bytes: int = 0
    """Of weights that come from the host, layer by layer, for all micro-batches; 0 where they are
    on the device."""


@dataclass(frozen=True, slots=True)
class AskTeacher:
    """The teacher's server, or of several that of the row, scores every response, and gives the
    `top_k` likeliest ids of each token with their log-probabilities."""

    urls: tuple[str, ...]
    num_rows: int
    """Rows of a rank."""
    max_tokens: int
    """Response tokens of the rank's rows at most."""
    top_k: int


@dataclass(frozen=True, slots=True)
class Reshard:
    """Where the models' layouts differ: what the teacher has kept travels to the ranks that need it
    for the student's loss; one of them gets `num_bytes` at most."""

    payload: Payload
    num_bytes: int = field(metadata={"json": "bytes"})


@dataclass(frozen=True, slots=True)
class StudentStep:
    """The student's forward, the loss and the backward, micro-batch by micro-batch."""

    num_micro_batches: int


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """One update of the student, its rate by `schedule`; a `clip_grad` of 0 clips nothing. With an
    `ema_decay` d the teacher then becomes d of itself and 1 - d of the student."""

    name: str
    schedule: str
    clip_grad: float
    ema_decay: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Held-out divergence and cross-entropy: before the first step, each `interval`, at the end.
    The student answers the first `num_samples` prompts."""

    interval: int
    num_rows: int
    num_samples: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Save student and training state after the last step and every `interval`; keep the newest.

    The tensors of one checkpoint have `num_bytes`; at most `num_at_once` are on the disk. One that
    `is_beside` is copied to the host here, and written while the next steps run."""

    interval: int | None
    keep: int
    num_bytes: int
    num_at_once: int
    is_beside: bool = False

    @property
    def room_bytes(self) -> int:
        """Of all that are on the disk at one time."""
        return self.num_bytes * self.num_at_once


def saving_of(steps: Sequence["Step"]) -> Checkpoint:
    """The one that every list of steps ends with."""
    return next(step for step in steps if isinstance(step, Checkpoint))


Step = (
    Draw
    | Refit
    | Generate
    | GenerateAhead
    | TakeSamples
    | Move
    | Await
    | TeacherForward
    | AskTeacher
    | Reshard
    | StudentStep
    | OptimizerStep
    | Evaluate
    | Checkpoint
)
