"""The tables of what is learnt, from which rows, and how long."""

from typing import Annotated, Literal

from pydantic import Field

from gkdplan.spec.section import Section
from gkdplan.spec.values import (
    Count,
    Decay,
    Fraction,
    Host,
    Index,
    NonNegative,
    Positive,
    Seed,
    Size,
    Text,
)
from gkdplan.vocab import Engine, LossBackend


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
