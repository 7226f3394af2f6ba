"""The RunPlan: every number that the runtime needs, decided before it starts."""

from collections.abc import Mapping
from dataclasses import dataclass

from gkdplan.runplan.steps import Move, Step
from gkdplan.runplan.timing import Timing
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype, Engine, Payload, Phase, Tier, Verdict

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
    `num_layers` layers a unit ("uniform") or of the first `num_layers` of each stage ("block")
    where it is "full"."""

    granularity: str = "none"
    method: str | None = None
    num_layers: int | None = None
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """Low-rank adapters (Hu et al., arXiv 2106.09685) beside the frozen projections `targets`, each
    with an A [rank, in] and a B [out, rank] of its own: y = W x + alpha / rank B A dropout(x).

    `targets` are some of `shape.PROJECTIONS`, in that order; `num_parameters` counts the whole
    model's adapters.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    num_parameters: int


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One of the two models.

    `keep_layers` are indices of the checkpoint's layers, in order. `stage_layers` counts the layers
    of each pipeline stage, chunk by chunk: chunk c of stage i comes c * pipeline + i-th in the
    model (one chunk a stage but for virtual pipelines).
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
    recompute: Recompute = Recompute()
    lora: LoraPlan | None = None


@dataclass(frozen=True, slots=True)
class Models:
    """Both models, and the one vocabulary of the loss."""

    student: ModelPlan
    teacher: ModelPlan
    vocab_size: int
    """The true vocabulary that the loss normalises over: neither padding nor unused rows."""


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


@dataclass(frozen=True, slots=True)
class RankClass:
    """Ranks that hold and do the same, as half-open runs of rank numbers; `stage` is the
    student's."""

    ranks: tuple[tuple[int, int], ...]
    stage: int
    teacher_stage: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """All ranks, and the mesh of each model over them; `backend` is torch.distributed's."""

    device: str
    backend: str
    num_nodes: int
    devices_per_node: int
    world_size: int
    student: AxisDegrees
    teacher: AxisDegrees
    classes: tuple[RankClass, ...]


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss and the mixture of sources. `lmbda` and `seq_kd` are the effective values."""

    beta: float
    lmbda: float
    seq_kd: float
    loss_temperature: float
    payload: Payload
    chunk_tokens: int
    """Response tokens whose logits exist at one time inside the loss."""


@dataclass(frozen=True, slots=True)
class VllmPlan:
    """An engine of `tensor` ranks on the ranks that train; bytes are those of one rank.

    `max_model_len` counts the tokens of a prompt and its response. The kv cache is `num_blocks`
    blocks of `block_tokens` tokens, of which vllm keeps one back. At a `sleep_level` of 0 the
    engine stays on the device between uses; at 1 its weights wait on the host, at 2 nowhere, and
    the cache is dropped.
    """

    tensor: int
    gpu_memory_utilization: float
    sleep_level: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    graph_bytes: int
    block_tokens: int
    num_blocks: int
    kv_cache_bytes: int

    @property
    def capacity_tokens(self) -> int:
        return max(0, self.num_blocks - 1) * self.block_tokens

    @property
    def num_sequences(self) -> int:
        """Of full length that the cache holds at one time."""
        blocks_of_one = -(-self.max_model_len // self.block_tokens)
        return max(0, self.num_blocks - 1) // blocks_of_one


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses of at most `max_completion_length` tokens are drawn: docs/sampling.md.

    With vllm the student's weights travel to the engine in buckets of `refit_bucket_bytes` before
    it samples; `vllm` is the engine on the ranks, None where it is a server at `server_url`.
    """

    engine: Engine
    temperature: float
    top_p: float
    top_k: int | None
    max_completion_length: int
    server_url: str | None = None
    refit_bucket_bytes: int = 0
    vllm: VllmPlan | None = None


@dataclass(frozen=True, slots=True)
class DataSource:
    """The `num_rows` rows taken of a file, the first `limit`, or all; sha256 of the whole file."""

    path: str
    limit: int | None
    num_rows: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class DataPlan:
    """Rows to learn from and held-out rows; `max_length` counts tokens of a prompt."""

    train: tuple[DataSource, ...]
    eval: tuple[DataSource, ...]
    max_length: int
    truncation: str
    shuffle: bool


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """`num_micro_batches` of `micro_rows` on each of the data ranks make `global_rows`."""

    micro_rows: int
    global_rows: int
    num_micro_batches: int


@dataclass(frozen=True, slots=True)
class OptimizerPlan:
    """How the weights move; a `clip_grad` of 0 clips nothing. Main weights and moments wait for
    their update in tier `offload`."""

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


@dataclass(frozen=True, slots=True)
class Training:
    """How long the run is and what it leaves; intervals are in steps."""

    output: str
    num_steps: int
    save_interval: int | None
    keep: int
    eval_interval: int
    seed: int
    loggers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PhaseMemory:
    """Bytes on the device of one rank in one phase, a row a buffer, in the order of the report."""

    rows: Mapping[str, int]
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class ClassMemory:
    """The memory of one class of identical ranks, phase by phase."""

    ranks: tuple[tuple[int, int], ...]
    stage: int
    teacher_stage: int
    phases: Mapping[Phase, PhaseMemory]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The fullest rank against its budget; bytes are those of one rank, but for the host's, which
    are those of the fullest node."""

    budget_bytes: int
    peak_bytes: int
    peak_phase: Phase
    verdict: Verdict
    host_bytes_per_node: int
    classes: tuple[ClassMemory, ...]

    @property
    def fullest_class(self) -> ClassMemory:
        """The first whose peak is the ledger's."""
        return max(self.classes, key=lambda memory: memory.phases[self.peak_phase].peak_bytes)


@dataclass(frozen=True, slots=True)
class OffloadChoice:
    """What an offload of "auto" could be, and what it costs.

    `offloaded` are tables of the plan ("teacher", "optimizer"); `verdict` is "over" also where the
    host has too little memory; `transfer_s` are the seconds of a step's moves.
    """

    offloaded: tuple[str, ...]
    verdict: Verdict
    peak_bytes: int
    host_bytes_per_node: int
    transfer_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """The moves of one step, in order; `choices` are all that were priced where the plan left the
    offload open."""

    moves: tuple[Move, ...]
    choices: tuple[OffloadChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class RunPlan:
    """`fingerprint` is the sha256 of the canonical JSON without `tool` and itself.

    The compiler leaves it empty; `codec.seal` fills it.
    """

    schema_version: int
    tool: str
    fingerprint: str
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
