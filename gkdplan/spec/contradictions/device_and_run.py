"""What the device cannot do, and how long a run is."""

from collections.abc import Iterator

from gkdplan.diagnostics import Diagnostic
from gkdplan.spec.contradictions.finding import contradiction
from gkdplan.spec.plan import Cluster
from gkdplan.spec.source import Source
from gkdplan.vocab import Kernels, LossBackend


def a_cpu_has_torch_kernels(source: Source) -> Iterator[Diagnostic]:
    device = source.value("cluster.device") or Cluster.model_fields["device"].default
    if device == "cpu" and source.value("cluster.kernels") == Kernels.TRANSFORMER_ENGINE:
        yield contradiction(
            "cluster.kernels",
            '`cluster.kernels = "transformer_engine"` has no kernels for a cpu',
            "name a GPU as `cluster.device`, or remove `kernels`",
            "the device is cpu",
        )


def a_cpu_has_no_triton(source: Source) -> Iterator[Diagnostic]:
    device = source.value("cluster.device") or Cluster.model_fields["device"].default
    if device == "cpu" and source.value("distill.loss_backend") == LossBackend.TRITON:
        yield contradiction(
            "distill.loss_backend",
            '`distill.loss_backend = "triton"` has no compiler for a cpu',
            'name a GPU as `cluster.device`, or set `loss_backend` to "eager" or "compiled"',
            "the device is cpu",
        )


def epochs_or_steps(source: Source) -> Iterator[Diagnostic]:
    if source.has("run.epochs") and source.has("run.steps"):
        yield contradiction(
            "run.epochs",
            "`run.epochs` and `run.steps` both say how long the run is",
            "keep one of them",
            f"`steps` is written on line {source.locate('run.steps').line}",
        )


CHECKS = (
    a_cpu_has_torch_kernels,
    a_cpu_has_no_triton,
    epochs_or_steps,
)
