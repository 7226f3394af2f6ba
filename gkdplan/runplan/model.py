"""The RunPlan: every number that the runtime needs, decided before it starts."""

from dataclasses import dataclass

from gkdplan.pictures import PictureLimits
from gkdplan.runplan.layout import Layout
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.models import Models
from gkdplan.runplan.sampling import Sampling
from gkdplan.runplan.schedule import Schedule
from gkdplan.runplan.steps import Step
from gkdplan.runplan.timing import Timing
from gkdplan.vocab import LossBackend, Payload, Tier

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What was looked up of one model.

    `origin` says where its shape came from (ModelFacts.origin); `tokenizer` is the sha256 of its
    token -> id map (TokenizerFacts.fingerprint), or None where no tokenizer was seen.
    """

    origin: str
    tokenizer: str | None


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the run plan was compiled from, beside the plan; data files are in `data`."""

    student: ModelInput
    teacher: ModelInput


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss and the mixture of sources. `lmbda`, `seq_kd` and `sft_alpha` are the effective
    values: the last is 0 where no step learns from the dataset. `top_k` is how many of the
    teacher's ids a payload of that name has."""

    beta: float
    lmbda: float
    seq_kd: float
    loss_temperature: float
    payload: Payload
    chunk_tokens: int
    """Response tokens whose logits exist at one time inside the loss."""
    top_k: int | None = None
    sft_alpha: float = 0.0
    loss_backend: LossBackend = LossBackend.EAGER


@dataclass(frozen=True, slots=True)
class DataSource:
    """The `num_rows` rows taken of a file, the first `limit`, or all; sha256 of the whole file."""

    path: str
    limit: int | None
    num_rows: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class DataPlan:
    """Rows to learn from and held-out rows; `max_length` counts tokens of a prompt. `samples` are
    the teacher's, of the rows of `train`, where steps take them from a file. `weights` say how much
    of each file of `train` an epoch holds, None where it holds every row once. Of each file up to
    `max_bad_rows` are left out. `cache` is the directory that keeps the tokens of rows for other
    runs; None is one in the run's own directory."""

    train: tuple[DataSource, ...]
    eval: tuple[DataSource, ...]
    max_length: int
    truncation: str
    shuffle: bool
    samples: DataSource | None = None
    pictures: PictureLimits | None = None
    weights: tuple[float, ...] | None = None
    max_bad_rows: int = 0
    cache: str | None = None


def is_head_needed(objective: Objective, data: DataPlan) -> bool:
    """Whether the loss, or an evaluation, multiplies the teacher's hidden states by its head."""
    return objective.payload is Payload.HIDDEN or bool(data.eval)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """`num_micro_batches` of `micro_rows` on each of the data ranks make `global_rows`."""

    micro_rows: int
    global_rows: int
    num_micro_batches: int


@dataclass(frozen=True, slots=True)
class OptimizerPlan:
    """How the weights move; a `clip_grad` of 0 clips nothing. Main weights and moments wait for
    their update in tier `offload`; `prefetch` is what was asked of their way to the device."""

    name: str
    lr: float
    min_lr: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    clip_grad: float
    distributed: bool
    offload: Tier = Tier.DEVICE
    prefetch: bool | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """How long the run is and what it leaves; intervals are in steps. `eval_samples` are held-out
    prompts that the student answers at each evaluation."""

    output: str
    num_steps: int
    save_interval: int | None
    keep: int
    eval_interval: int
    seed: int
    loggers: tuple[str, ...]
    max_skipped_steps: int = 0
    async_save: bool = False
    eval_samples: int = 0


@dataclass(frozen=True, slots=True)
class RunPlan:
    """`fingerprint` is the sha256 of what identifies the run (`identity.py`): run plans that price
    the same run otherwise share it. `checksum` is the sha256 of everything else here.

    The compiler leaves both empty; `codec.seal` fills them.
    """

    schema_version: int
    tool: str
    fingerprint: str
    checksum: str
    name: str
    inputs: Inputs
    models: Models
    layout: Layout
    objective: Objective
    sampling: Sampling
    data: DataPlan
    batch: BatchPlan
    optimizer: OptimizerPlan
    training: Training
    ledger: Ledger
    timing: Timing
    schedule: Schedule
    steps: tuple[Step, ...]
