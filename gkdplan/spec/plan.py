"""A plan: its tables, and the devices that it is for."""

from typing import Annotated

from pydantic import Field

from gkdplan.spec.learning import Batch, Data, Distill, Generation, Optimizer, Run
from gkdplan.spec.models import Student, Teacher
from gkdplan.spec.section import Section
from gkdplan.spec.values import Count, Name, Port, Seconds, Size, Text
from gkdplan.vocab import Kernels


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
