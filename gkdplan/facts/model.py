"""The nouns of this room: what was found, where, and how sure it is."""

from collections.abc import Mapping
from dataclasses import dataclass

from gkdplan.facts.prompts import Prompt
from gkdplan.samples import Manifest
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype, Role


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as a plan names it: `model` is a directory or a hub id."""

    role: Role
    model: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What the safetensors headers of a checkpoint say; no tensor is read.

    `num_parameters` and `num_bytes` cover the tensors that the shape asks for: neither a second
    copy of a tied head nor buffers count.
    """

    num_files: int
    num_parameters: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """A tokenizer's token -> id map with its added tokens.

    `size` is the highest id + 1: the true vocabulary. `fingerprint` is a sha256 of the map. Where
    the tokenizer `is_byte_level` tokens spell the bytes of a text, in NFC at most.
    """

    tokens: Mapping[str, int]
    size: int
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None
    fingerprint: str
    is_byte_level: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model as the plan names it.

    `origin` says where the shape came from ("Qwen3-8B/config.json", "bundled facts").
    `weights` and `tokenizer` are None where their files were not seen.
    """

    name: str
    shape: ModelShape
    origin: str
    weights: WeightFacts | None
    tokenizer: TokenizerFacts | None


@dataclass(frozen=True, slots=True)
class Device:
    """One row of the device table. Bandwidths are bytes/s in one direction, FLOP/s are dense.

    `backend` is torch.distributed's ("gloo", "nccl"). `context_bytes` and the
    `communicator_bytes` of each group of ranks lie outside the allocator.
    `network_bandwidth` is each device's share of its node's network.
    """

    key: str
    backend: str
    memory_bytes: int
    host_memory_bytes_per_node: int
    peak_flops: Mapping[Dtype, float]
    memory_bandwidth: float
    device_link_bandwidth: float
    host_link_bandwidth: float
    network_bandwidth: float
    context_bytes: int
    communicator_bytes: int


@dataclass(frozen=True, slots=True)
class TeacherColumn:
    """The column of the data that names a row's teacher, and what it may hold."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataFile:
    """One entry of data.train or data.eval; the counts are taken after the `#N` limit.

    Rows without a response are prompts: steps that learn from the dataset cannot use them. Rows
    with `messages` need a chat template. `longest_prompts` are the longest few of checked rows. Of
    checked rows `num_rows_with_images` show images; no row shows more than `most_images`.
    """

    entry: str
    path: str
    limit: int | None
    num_rows: int
    num_rows_with_response: int
    num_rows_with_messages: int
    fingerprint: str
    longest_prompts: tuple[Prompt, ...] = ()
    num_rows_with_images: int = 0
    most_images: int = 0


@dataclass(frozen=True, slots=True)
class SamplesFile:
    """A file of samples with `num_rows` of them; `teacher_weights` is the fingerprint of the plan's
    teacher, None where its weights were not seen."""

    path: str
    manifest: Manifest
    num_rows: int
    fingerprint: str
    teacher_weights: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the planner may know of the world."""

    student: ModelFacts
    teacher: ModelFacts
    device: Device
    train: tuple[DataFile, ...]
    eval: tuple[DataFile, ...]
    samples: SamplesFile | None = None
