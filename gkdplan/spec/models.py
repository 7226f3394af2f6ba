"""The tables of student and teacher."""

from typing import Annotated, Literal

from pydantic import Field

from gkdplan.spec.section import Section
from gkdplan.spec.values import Count, Decay, Index, NonNegative, Positive, Text
from gkdplan.vocab import Dtype


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
