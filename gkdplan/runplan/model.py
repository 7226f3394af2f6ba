"""The RunPlan: every number that the runtime needs, decided before it starts."""

from dataclasses import dataclass
from itertools import accumulate

from gkdplan.pictures import PictureLimits
from gkdplan.runplan.layout import Layout
from gkdplan.runplan.ledger import Ledger
from gkdplan.runplan.sampling import Sampling
from gkdplan.runplan.schedule import Schedule
from gkdplan.runplan.steps import Step
from gkdplan.runplan.timing import Timing
from gkdplan.shape import ModelShape, parts_of
from gkdplan.vocab import Dtype, LossBackend, Payload, Tier

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
class Recompute:
    """Activations made again in the backward: of `modules` where `granularity` is "selective"; of
    `num_layers` layers a unit ("uniform") or of the first `num_layers` of each chunk ("block")
    where it is "full"."""

    granularity: str = "none"
    method: str | None = None
    num_layers: int | None = None
    modules: tuple[str, ...] = ()


NO_RECOMPUTE = Recompute()


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """Low-rank adapters (Hu et al., arXiv 2106.09685) beside the frozen projections `targets`, each
    with an A [rank, in] and a B [out, rank] of its own: y = W x + alpha / rank B A dropout(x).

    `targets` are some of the family's projections, in the order of a layer; `num_parameters` counts
    the whole model's adapters.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    num_parameters: int

    def target_of(self, projection: str) -> str | None:
        """The target that adapts one of `shape.PROJECTIONS`: itself, or the matrix it lies in."""
        return next((t for t in self.targets if projection in parts_of(t)), None)


@dataclass(frozen=True, slots=True)
class LoadBalance:
    """A loss that is least where every expert of a layer gets an equal share of the tokens (Fedus
    et al., arXiv 2101.03961, equations 4 to 6). `coefficient` times it is added to the objective:
    summed over layers, the mean over the `num_micro_batches` of the global batch."""

    coefficient: float
    num_micro_batches: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """What stays as it is of a vision-language model that learns."""

    vision: bool
    projector: bool
    language: bool = False


@dataclass(frozen=True, slots=True)
class TeacherAddress:
    """Where the teacher of the rows is that have `value` in their column; None stands for all."""

    value: str | None
    url: str


@dataclass(frozen=True, slots=True)
class TeacherServer:
    """A teacher behind a server, or several with one vocabulary, among which the `column` of a row
    chooses. One that stopped answering has `patience_s` seconds to come back."""

    addresses: tuple[TeacherAddress, ...]
    column: str | None
    patience_s: float

    @property
    def urls(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(address.url for address in self.addresses))

    @property
    def values(self) -> tuple[str, ...]:
        """What the column may hold; nothing where there is none."""
        return tuple(a.value for a in self.addresses if a.value is not None)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One of the two models.

    `keep_layers` are indices of the checkpoint's layers, in order, of which `shape` is made.
    `stage_layers` counts the layers of each pipeline stage, chunk by chunk: chunk c of stage i
    comes c * pipeline + i-th in the model (one chunk a stage but for virtual pipelines). `prefetch`
    is what the plan asks of the weights' way to the device; the schedule says what became of it.
    With `stream` they come layer by layer, in every forward anew. A teacher that `is_students_base`
    has no weights of its own: it is the student without its adapters. A teacher with a `server` is
    asked there: no rank has a layer of it. One with an `ema_decay` d becomes, in every update, d of
    itself and 1 - d of the student. `freeze` is of a student that sees images.
    `idle_params` and `idle_grads` are where a student's parameters and gradients are while nothing
    reads them.
    """

    model: str
    revision: str | None
    family: str
    num_parameters: int
    shape: ModelShape
    dtype: Dtype
    padded_vocab_size: int
    init: str
    keep_layers: tuple[int, ...] | None
    offload: Tier
    stage_layers: tuple[tuple[int, ...], ...]
    recompute: Recompute = NO_RECOMPUTE
    lora: LoraPlan | None = None
    load_balance: LoadBalance | None = None
    freeze: Freeze | None = None
    prefetch: bool | None = None
    stream: bool = False
    is_students_base: bool = False
    server: TeacherServer | None = None
    ema_decay: float | None = None
    idle_params: Tier = Tier.DEVICE
    idle_grads: Tier = Tier.DEVICE

    @property
    def learning_eyes(self) -> tuple[str, ...]:
        """How the names of tensors begin that are of a tower or projector that learns; of a tower
        with what is inside of it."""
        vision, freeze = self.shape.vision, self.freeze
        if vision is None or freeze is None:
            return ()
        projector = () if freeze.projector else vision.projector
        if freeze.vision:
            return projector
        tower = vision.prefixes[0]
        return (tower, *(part for part in projector if not part.startswith(tower)))

    def layers_of_stage(self, stage: int) -> tuple[range, ...]:
        """The model's numbers of the layers of each of its chunks."""
        of_chunks = [num for of_stages in zip(*self.stage_layers, strict=True) for num in of_stages]
        starts = [0, *accumulate(of_chunks)]
        places = range(stage, len(of_chunks), len(self.stage_layers))
        return tuple(range(starts[place], starts[place + 1]) for place in places)


@dataclass(frozen=True, slots=True)
class Models:
    """Both models, and the one vocabulary of the loss."""

    student: ModelPlan
    teacher: ModelPlan
    vocab_size: int
    """The true vocabulary that the loss normalises over: neither padding nor unused rows."""


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
