"""The vocabulary of a plan on one page: every key, its type, its default and its meaning."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gkdplan.addresses import HOST, is_host
from gkdplan.units import parse_bytes
from gkdplan.vocab import Dtype, Engine, Kernels, LossBackend

LARGEST_COUNT = 10**9


def _not_zero(size: str) -> str:
    """Raises ValueError where the size is less than a byte."""
    if parse_bytes(size) < 1:
        raise ValueError(size)
    return size


def _has_port(host: str) -> str:
    """Raises ValueError where its port is none."""
    if not is_host(host):
        raise ValueError(host)
    return host


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["qwen3-8b"])]
Size = Annotated[
    str,
    Field(pattern=r"^\d{1,9}(\.\d{1,9})? *(B|KiB|MiB|GiB|TiB)$", examples=["2 GiB"]),
    AfterValidator(_not_zero),
]
Host = Annotated[
    str, Field(pattern=HOST, examples=["images.example.org"]), AfterValidator(_has_port)
]
Index = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0.0, le=10.0**7)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A table of the plan: unknown keys are errors, types are not coerced, values do not change."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        populate_by_name=True,
        defer_build=True,
    )


class Cluster(Section):
    """The machines."""

    device: Text = "cpu"
    """A key of the device table, such as "h100-80gb", or "cpu"."""
    num_nodes: Count = 1
    """Machines."""
    devices_per_node: Count = 1
    """Devices of each machine; a process runs on each."""
    memory_limit: Size | None = None
    """A budget a device, smaller than the device table's; a run that needs more of it is ended."""
    master_port: Port = 29500
    """Where the ranks of several nodes meet, on the first one; `MASTER_PORT` overrides it."""
    join_timeout_s: Seconds = 300.0
    """Seconds in which the ranks of all nodes have to come together at the start."""
    collective_timeout_s: Seconds = 1800.0
    """Seconds in which every rank has to take part in what ranks do together; then the run stops,
    says which one did not, and can be resumed."""
    kernels: Annotated[Kernels, Field(strict=False)] | None = None
    """Of a model's layers; left out, "transformer_engine" on GPUs and "torch" on cpu."""


class Parallel(Section):
    """How a model is spread over the ranks; data parallelism takes the ranks that are left."""

    tensor: Count = 1
    """Ranks that share each matrix."""
    sequence: bool | None = None
    """Sequence parallelism; left out, it is on where tensor > 1."""
    pipeline: Count = 1
    """Stages of consecutive layers."""
    virtual_pipeline: Count = 1
    """Runs of layers of each pipeline stage."""
    first_stage_layers: Count | None = None
    """Layers of the first pipeline stage, where it is not an equal share."""
    last_stage_layers: Count | None = None
    """Layers of the last pipeline stage, where it is not an equal share."""
    stage_layers: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Layers of each pipeline stage, first to last; left out, equal shares."""
    context: Count = 1
    """Ranks that share each sequence."""
    expert: Count = 1
    """Ranks over which the experts of a layer are spread."""
    expert_tensor: Count = 1
    """Ranks that share each expert's matrices."""


class Recompute(Section):
    """Activations that are computed again in the backward pass."""

    granularity: Literal["none", "selective", "full"] = "none"
    """What is computed again: nothing, the modules named, or whole layers."""
    method: Literal["uniform", "block"] | None = None
    """Which layers, for "full"."""
    num_layers: Count | None = None
    """For "full": layers of each unit ("uniform"), or of each run that are made again ("block")."""
    modules: tuple[Text, ...] = ()
    """Modules, for "selective"."""


class Lora(Section):
    """Low-rank adapters, for tuning = "lora"."""

    rank: Count = 8
    """Rank of each adapter."""
    alpha: Positive = 32.0
    """The adapter's output is scaled by alpha / rank."""
    dropout: Decay = 0.0
    """Probability of dropping an element of an adapter's input."""
    targets: Annotated[tuple[Text, ...], Field(min_length=1)] = ("all-linear",)
    """Projections that get an adapter, by the names of the checkpoint (q_proj, qkv_proj, ...), or
    "all-linear"."""


class Keep(Section):
    """The layers of the model that the student is made of, for init = "layers"."""

    layers: Annotated[tuple[Index, ...], Field(min_length=1)]
    """Indices, rising, of the model's layers."""


class Student(Section):
    """The model that learns."""

    model: Text
    """A directory in Hugging Face's format, or a hub id."""
    revision: Text | None = None
    """A hub revision."""
    dtype: Annotated[Dtype, Field(strict=False)] = Dtype.BF16
    """Of the weights; fp32 on cpu."""
    tuning: Literal["full", "lora"] = "full"
    """Every parameter, or adapters only."""
    init: Literal["pretrained", "random", "layers"] = "pretrained"
    """Where the weights start: the model's, random ones, or some of the model's layers."""
    router_aux_loss_coef: NonNegative = 0.0
    """Weight of a loss that keeps the load of a layer's experts equal; 0 adds none."""
    offload: Literal["none", "grads", "cpu", "auto"] = "none"
    """What is off the device while nothing reads it: nothing, gradients ("grads"), weights too."""
    keep: Keep | None = None
    lora: Lora | None = None
    freeze_vision: bool | None = None
    """Of a model that sees images: whether its tower stays as it is; left out, it does."""
    freeze_projector: bool | None = None
    """Whether what joins tower and decoder stays as it is; left out, it does."""
    freeze_language: bool | None = None
    """Whether the decoder stays as it is; left out, it learns."""
    parallel: Parallel = Field(default_factory=Parallel)
    recompute: Recompute = Field(default_factory=Recompute)


class Server(Section):
    """A teacher that answers over HTTP instead of running on the ranks, or several of them."""

    url: Text | None = None
    """Of an OpenAI-compatible server of vllm, such as "http://127.0.0.1:8000"."""
    urls: Annotated[dict[Text, Text], Field(min_length=1)] | None = None
    """In place of `url`, of several teachers with one vocabulary: a row's `column` names its."""
    column: Text | None = None
    """The column of the data that holds a key of `urls`."""
    top_k: Count = 64
    """Log-probabilities asked for each token: the payload is "top_k" with as many ids."""
    patience_s: NonNegative = 60.0
    """Seconds in which a server that stopped answering may come back before the run stops."""


class Teacher(Section):
    """The model that is learnt from."""

    model: Text | None = None
    """A directory in Hugging Face's format, or a hub id; only with `self` it is left out."""
    self_: Literal["initial", "ema"] | None = Field(default=None, alias="self")
    """The student in place of another model: as it starts, or the moving average of its weights."""
    decay: Decay | None = None
    """For self = "ema", the share of the average that stays in an update; left out, 0.999."""
    revision: Text | None = None
    """A hub revision."""
    dtype: Annotated[Dtype, Field(strict=False)] | None = None
    """Of the weights; left out, the student's."""
    offload: Literal["none", "cpu", "auto"] = "none"
    """Where its weights wait between uses: the device, the host, or what the budget asks."""
    prefetch: bool | None = None
    """Copied to the device beside an earlier phase; left out, where there is time and room."""
    stream: bool = False
    """With offload = "cpu", its weights visit the device layer by layer, two layers at one time."""
    parallel: Parallel | None = None
    """Its own layout on the same ranks; left out, the student's."""
    samples: Text | None = None
    """A file that `gkdplan sample` wrote: its responses are taken instead of sampling."""
    server: Server | None = None


class Distill(Section):
    """What is learnt, and from whose responses."""

    beta: Fraction = 0.5
    """0 forward KL, 1 reverse KL, between them the generalized Jensen-Shannon divergence."""
    lmbda: Fraction = 0.5
    """Probability that a step learns from the student's own samples."""
    seq_kd: bool | Fraction = False
    """The share of the remaining steps that learn from the teacher's samples; true is 1."""
    temperature: Positive = 0.9
    """Of sampling and of the loss; loss_temperature and sampling_temperature override one."""
    loss_temperature: Positive | None = None
    """Left out, `temperature`."""
    sampling_temperature: NonNegative | None = None
    """Left out, `temperature`; 0 takes the likeliest token."""
    sft_alpha: NonNegative = 0.0
    """Weight of an added cross-entropy, in steps that learn from the dataset's responses."""
    payload: Literal["auto", "hidden", "logits", "top_k"] = "auto"
    """What travels from the teacher to the loss: final hidden states, logits, or the top k, which
    is another objective; "auto" takes what has fewer bytes of the first two."""
    top_k: Count | None = None
    """The teacher's likeliest ids kept of each token, for payload = "top_k"; the others are one."""
    loss_backend: Annotated[LossBackend, Field(strict=False)] | None = None
    """What computes the loss from logits; left out, "triton" on GPUs and "eager" on cpu."""


class Generation(Section):
    """How responses are sampled."""

    engine: Annotated[Engine, Field(strict=False)] = Engine.MEGATRON
    """What samples; with "none" every step learns from dataset responses."""
    mode: Literal["colocate", "server"] = "colocate"
    """On the ranks that train, or on a server."""
    server_url: Text | Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """The server, or several that share the prompts, for mode = "server"."""
    server_key: bool = True
    """Whether the servers ask for an API key, which `gkdplan serve` makes."""
    staleness: Annotated[int, Field(ge=0, le=1)] = 0
    """1 draws the next step's samples on the servers while a step trains: with weights that lack
    one update."""
    server_patience_s: NonNegative = 180.0
    """Seconds in which, when no server answers any more, one may come back; then the run stops, and
    can be resumed."""
    tensor: Count | None = None
    """Ranks that share each matrix while sampling; left out, the student's tensor degree."""
    gpu_memory_utilization: Fraction = 0.5
    """Share of the device's memory that vllm takes."""
    sleep_level: Annotated[int, Field(ge=0, le=2)] = 0
    """Between uses of vllm: 0 all stays; 1 no kv cache, weights on the host; 2 neither is kept."""
    max_completion_length: Count = 512
    """Tokens of a response."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the likeliest tokens that hold this much probability."""
    top_k: Count | None = None
    """Sample from this many of the likeliest tokens; left out, from all."""


class Data(Section):
    """The rows: messages, or prompt and completion."""

    train: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Files of rows (.jsonl, .json, .csv, .parquet, .arrow, or a dataset that Hugging Face's
    datasets saved to disk): "data/alpaca.jsonl"; "data/alpaca.jsonl#1000" for the first 1,000."""
    weights: tuple[Positive, ...] | None = None
    """How much of each file of `train` an epoch holds; left out, every row once."""
    eval: tuple[Text, ...] = ()
    """Files of held-out rows."""
    max_bad_rows: Index = 0
    """Of each file, rows that may be left out as they cannot be used; one more is an error."""
    max_length: Count = 2048
    """Tokens of the prompt; a dataset's response is cut at generation.max_completion_length."""
    truncation: Literal["delete", "left", "right", "error"] = "delete"
    """What happens to a row whose prompt is longer."""
    max_images: Count | None = None
    """Images that a row may show, to models that see; left out, 8."""
    max_image_bytes: Size | None = None
    """Of an image's file; left out, 20 MiB."""
    max_image_pixels: Count | None = None
    """Of an image, width times height; left out, 50 million."""
    image_hosts: tuple[Host, ...] | None = None
    """Hosts from which a run fetches the images that rows name by http or https, each with its port
    where that is not the scheme's own; left out, none."""
    cache: Text | None = None
    """A directory that keeps the tokens of rows for other runs; left out, one in run.output."""
    shuffle: bool = True
    """A new order of the rows in each epoch."""


class Batch(Section):
    """Rows of a step."""

    micro: Count = 1
    """Rows that a rank runs at once."""
    global_: Count = Field(default=16, alias="global")
    """Rows of all ranks that make one optimizer step."""


class Optimizer(Section):
    """How the weights move."""

    name: Literal["adamw"] = "adamw"
    """The update rule."""
    lr: Positive = 1e-5
    """The learning rate after warm-up."""
    min_lr: NonNegative = 0.0
    """The learning rate at the end, for schedule = "linear" and "cosine"."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """The way from lr to min_lr."""
    warmup_fraction: Fraction = 0.0
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of the running mean of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the root of the running square."""
    clip_grad: NonNegative = 1.0
    """The largest norm of the gradient; 0 leaves it as it is."""
    distributed: bool = True
    """Spread the optimizer's state over the data axis."""
    offload: Literal["none", "cpu", "auto"] = "none"
    """Where its state waits between updates: the device, the host, or what the budget asks."""
    prefetch: bool | None = None
    """Copied to the device beside an earlier phase; left out, where there is time and room."""


class Run(Section):
    """How long, and what is kept."""

    output: Text | None = None
    """The run directory; left out, runs/NAME."""
    epochs: Count | None = None
    """Passes over the rows; left out together with steps, one."""
    steps: Count | None = None
    """Optimizer steps, in place of epochs."""
    save_interval: Count | None = None
    """Steps between checkpoints; left out, only the last step is saved."""
    keep: Count = 2
    """How many checkpoints stay."""
    async_save: bool = False
    """Whether checkpoints are written beside the steps that follow, from a copy in host memory."""
    eval_interval: Index = 0
    """Steps between evaluations; 0 evaluates before the first step and after the last."""
    eval_samples: Index = 0
    """Held-out prompts, the first ones of data.eval, that the student answers at an evaluation."""
    max_skipped_steps: Index = 0
    """Steps in a row whose loss or gradient is not finite that change nothing; one more stops the
    run."""
    seed: Seed = 42
    """Of the order of rows, the draw of each step and sampling."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go, besides metrics.jsonl."""


class Plan(Section):
    """One distillation."""

    name: Name
    """Names the run; letters, digits, dots, dashes and underscores."""
    cluster: Cluster = Field(default_factory=Cluster)
    student: Student
    teacher: Teacher
    distill: Distill = Field(default_factory=Distill)
    generation: Generation = Field(default_factory=Generation)
    data: Data
    batch: Batch = Field(default_factory=Batch)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    run: Run = Field(default_factory=Run)
