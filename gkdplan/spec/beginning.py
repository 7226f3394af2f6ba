"""The text of a first plan: the keys that people change, each with what it means."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

ROWS_OF_A_DEVICE = 4


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a person knows before there is a plan."""

    student: str
    teacher: str
    train: Sequence[str]
    device: str
    num_nodes: int
    devices_per_node: int
    lora: bool = False
    kernels: str | None = None
    image_hosts: Sequence[str] = ()

    @property
    def name(self) -> str:
        both = f"{_last(self.teacher)}-to-{_last(self.student)}".lower()
        return re.sub(r"[^a-z0-9._-]+", "-", both).strip("-._") or "distillation"


def first_plan(known: Beginning) -> str:
    """TOML that loads, with one table for each part of a distillation."""
    on_cpu = known.device == "cpu"
    num_devices = known.num_nodes * known.devices_per_node
    return f"""\
# `gkdplan check` says what is wrong with this plan and whether it fits, `gkdplan memory` where the
# bytes are, and `gkdplan run` runs it. docs/plan.md and `gkdplan schema` have every key.
name = {_quoted(known.name)}

[cluster]
device = {_quoted(known.device)}  # a name of the device table, or "cpu"
num_nodes = {known.num_nodes}
devices_per_node = {known.devices_per_node}
{_kernels(known)}
[student]
model = {_quoted(known.student)}  # a directory in Hugging Face's format, or a hub id
dtype = {_quoted("fp32" if on_cpu else "bf16")}
tuning = {_quoted("lora" if known.lora else "full")}  # "full": every parameter; "lora": adapters

[teacher]
model = {_quoted(known.teacher)}
offload = "auto"  # "cpu": on the host between uses; "auto": where the budget asks for it

[distill]
beta = 0.5  # 0 forward KL, 0.5 symmetric JSD, 1 reverse KL
lmbda = 0.5  # the share of steps that learn from the student's own samples
seq_kd = false  # true: the other steps learn from the teacher's samples, not from the rows'
temperature = 0.9  # of sampling and of the loss

[generation]
engine = {_quoted("megatron" if on_cpu else "vllm")}  # "vllm", "megatron" or "none"
max_completion_length = 512  # tokens of a response
{"" if on_cpu else _VLLM}
[data]
train = [{", ".join(map(_quoted, known.train))}]  # rows of messages, or of prompt and completion
{_hosts(known)}max_length = 1024  # tokens of a prompt
truncation = "delete"  # of a row with a longer one; "left", "right" or "error"

[batch]
micro = 1  # rows that a rank runs at once
global = {ROWS_OF_A_DEVICE * num_devices}  # rows of a step

[optimizer]
lr = {"1e-4" if known.lora else "1e-5"}
schedule = "cosine"
warmup_fraction = 0.05
offload = "auto"

[run]
epochs = 1
seed = 42
loggers = ["tensorboard"]
"""


_VLLM = """\
gpu_memory_utilization = 0.3  # the share of a device that vllm takes while it samples
sleep_level = 2  # which it gives back between uses; 0 keeps it
"""


def _kernels(known: Beginning) -> str:
    return f"kernels = {_quoted(known.kernels)}\n" if known.kernels else ""


def _hosts(known: Beginning) -> str:
    hosts = ", ".join(map(_quoted, known.image_hosts))
    return f"image_hosts = [{hosts}]  # from which images are fetched\n" if hosts else ""


def _quoted(text: str) -> str:
    """A basic string of TOML, whose escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _last(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]
