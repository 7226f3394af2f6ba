"""Whether this machine has the kernels that a plan asks for."""

from importlib.util import find_spec

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.runtime.loss.compiled import cpp_compiler


def has_transformer_engine() -> bool:
    """Whether it is installed; it is not imported, which takes seconds."""
    return find_spec("transformer_engine") is not None


def no_cpp_compiler() -> Diagnostic:
    """GK526, with both ways out."""
    return error(
        "GK526",
        f"the loss is compiled by {cpp_compiler()}, which is not on this machine",
        "distill.loss_backend",
        help=(
            'set `distill.loss_backend = "eager"`, which needs nothing beside torch',
            "or install a C++ compiler; $CXX names another than g++",
        ),
    )


def no_transformer_engine() -> Diagnostic:
    """GK525, with both ways out."""
    return error(
        "GK525",
        "the plan wants Transformer Engine's kernels, and it cannot be imported here",
        "cluster.kernels",
        help=(
            'set `cluster.kernels = "torch"`, which needs nothing beside torch',
            "or install it with `pip install --no-build-isolation 'transformer-engine[pytorch]'`",
        ),
    )
