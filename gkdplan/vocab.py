"""The closed words that every floor speaks: roles, mesh axes, dtypes, phases, tiers, sources."""

from enum import StrEnum


class Role(StrEnum):
    """The two models."""

    STUDENT = "student"
    TEACHER = "teacher"


class Axis(StrEnum):
    """A mesh axis; tensors have dims, meshes have axes."""

    TENSOR = "tensor"
    PIPELINE = "pipeline"
    CONTEXT = "context"
    EXPERT = "expert"
    EXPERT_TENSOR = "expert_tensor"
    DATA = "data"


class Dtype(StrEnum):
    """The type of a model's weights."""

    FP32 = "fp32"
    BF16 = "bf16"

    @property
    def num_bytes(self) -> int:
        """Bytes of one element."""
        return 4 if self is Dtype.FP32 else 2


class Phase(StrEnum):
    """The phases of one step, in the order in which they run."""

    REFIT = "refit"
    GENERATE = "generate"
    TEACHER = "teacher"
    STUDENT = "student"
    OPTIMIZER = "optimizer"
    CHECKPOINT = "checkpoint"


class Tier(StrEnum):
    """Where a buffer lies; `DROPPED` means that its bytes exist nowhere."""

    DEVICE = "device"
    HOST = "host"
    DROPPED = "dropped"


class Source(StrEnum):
    """Whose responses a step learns from."""

    STUDENT = "student"
    TEACHER = "teacher"
    DATASET = "dataset"


class Engine(StrEnum):
    """What samples responses."""

    VLLM = "vllm"
    MEGATRON = "megatron"
    NONE = "none"


class Kernels(StrEnum):
    """Whose modules a model's layers are made of."""

    TRANSFORMER_ENGINE = "transformer_engine"
    TORCH = "torch"


class Payload(StrEnum):
    """What travels from the teacher to the student's loss."""

    HIDDEN = "hidden"
    LOGITS = "logits"
    TOP_K = "top_k"


class LossBackend(StrEnum):
    """What computes the loss and its gradient from logits."""

    EAGER = "eager"
    COMPILED = "compiled"
    TRITON = "triton"


class Verdict(StrEnum):
    """A peak of memory against its budget."""

    FITS = "fits"
    TIGHT = "tight"
    OVER = "over"
