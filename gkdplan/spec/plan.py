"""The vocabulary of a plan on one page: every key, its type, its default and its meaning."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gkdplan.vocab import Dtype, Engine

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A table of the plan: unknown keys are errors, types are not coerced, values do not change."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, populate_by_name=True, defer_build=True
    )


class Cluster(Section):
    device: str = "cpu"
    """A key of the device table, such as "h100-80gb", or "cpu"."""
    num_nodes: Count = 1
    devices_per_node: Count = 1
    memory_limit: str | None = None
    """A budget a device smaller than the device table's, such as "2 GiB"."""


class Parallel(Section):
    tensor: Count = 1
    sequence: bool | None = None
    """Sequence parallelism; left out, it is on where tensor > 1."""
    pipeline: Count = 1
    virtual_pipeline: Count = 1
    first_stage_layers: Count | None = None
    last_stage_layers: Count | None = None
    context: Count = 1
    expert: Count = 1
    expert_tensor: Count = 1


class Recompute(Section):
    granularity: Literal["none", "selective", "full"] = "none"
    method: Literal["uniform", "block"] | None = None
    num_layers: Count | None = None
    modules: tuple[str, ...] = ()


class Lora(Section):
    rank: Count = 8
    alpha: Positive = 32.0
    dropout: Fraction = 0.0
    targets: tuple[str, ...] = ("all-linear",)


class Keep(Section):
    layers: tuple[Annotated[int, Field(ge=0)], ...]
    """Indices, rising, of the model's layers that the student is made of."""


class Student(Section):
    model: str
    """A directory in Hugging Face's format, or a hub id."""
    revision: str | None = None
    dtype: Annotated[Dtype, Field(strict=False)] = Dtype.BF16
    tuning: Literal["full", "lora"] = "full"
    init: Literal["pretrained", "random", "layers"] = "pretrained"
    keep: Keep | None = None
    lora: Lora | None = None
    parallel: Parallel = Field(default_factory=Parallel)
    recompute: Recompute = Field(default_factory=Recompute)


class Server(Section):
    url: str
    top_k: Count = 64


class Teacher(Section):
    model: str
    revision: str | None = None
    dtype: Annotated[Dtype, Field(strict=False)] | None = None
    """Left out, the student's."""
    offload: Literal["none", "cpu"] = "none"
    parallel: Parallel | None = None
    """Left out, the student's."""
    server: Server | None = None


class Distill(Section):
    beta: Fraction = 0.5
    """0 forward KL, 1 reverse KL, between them the generalized Jensen-Shannon divergence."""
    lmbda: Fraction = 0.5
    """Probability that a step learns from the student's own samples."""
    seq_kd: bool | Fraction = False
    """The share of the remaining steps that learn from the teacher's samples; true is 1."""
    temperature: Positive = 0.9
    """Of sampling and of the loss; the two keys below override one of them."""
    loss_temperature: Positive | None = None
    sampling_temperature: NonNegative | None = None
    sft_alpha: NonNegative = 0.0
    payload: Literal["auto", "hidden", "logits", "top_k"] = "auto"
    top_k: Count | None = None


class Generation(Section):
    engine: Annotated[Engine, Field(strict=False)] = Engine.MEGATRON
    mode: Literal["colocate", "server"] = "colocate"
    server_url: str | None = None
    tensor: Count | None = None
    gpu_memory_utilization: Fraction = 0.5
    sleep_level: Literal[0, 1, 2] = 0
    max_completion_length: Count = 512
    """Tokens."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Count | None = None
    """Left out, every token may be sampled."""


class Data(Section):
    train: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files of rows: "data/alpaca.jsonl", or "data/alpaca.jsonl#1000" for the first 1,000."""
    eval: tuple[str, ...] = ()
    max_length: Count = 2048
    """Tokens of the prompt; a dataset's response is cut at generation.max_completion_length."""
    truncation: Literal["delete", "left", "right", "error"] = "delete"
    """What happens to a row whose prompt is longer."""
    shuffle: bool = True


class Batch(Section):
    micro: Count = 1
    global_: Count = Field(default=16, alias="global")


class Optimizer(Section):
    name: Literal["adamw"] = "adamw"
    lr: Positive = 1e-5
    min_lr: NonNegative = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_fraction: Fraction = 0.0
    weight_decay: NonNegative = 0.1
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Positive = 1e-8
    clip_grad: NonNegative = 1.0
    distributed: bool = True
    """Spread the optimizer's state over the data axis."""
    offload: Literal["none", "cpu"] = "none"


class Run(Section):
    output: str | None = None
    """The run directory; left out, runs/NAME."""
    epochs: Count | None = None
    """Passes over the rows; left out together with steps, one."""
    steps: Count | None = None
    save_interval: Count | None = None
    """Steps between checkpoints; left out, only the last step is saved."""
    keep: Count = 2
    """How many checkpoints stay."""
    eval_interval: Annotated[int, Field(ge=0)] = 0
    """Steps between evaluations; 0 evaluates before the first step and after the last."""
    seed: Annotated[int, Field(ge=0)] = 42
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()


class Plan(Section):
    name: str
    cluster: Cluster = Field(default_factory=Cluster)
    student: Student
    teacher: Teacher
    distill: Distill = Field(default_factory=Distill)
    generation: Generation = Field(default_factory=Generation)
    data: Data
    batch: Batch = Field(default_factory=Batch)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    run: Run = Field(default_factory=Run)
