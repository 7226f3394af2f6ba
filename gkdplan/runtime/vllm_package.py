"""Whether vLLM is installed, whichever build: the official one, or that for CPUs."""

from importlib.util import find_spec

from gkdplan.diagnostics import Diagnostic, error


def has_vllm() -> bool:
    """It is not imported, which takes seconds."""
    return find_spec("vllm") is not None


def no_vllm() -> Diagnostic:
    """GK527."""
    return error(
        "GK527",
        "the plan samples with vllm, which is not installed here",
        "generation.engine",
        help=(
            "install it: `pip install 'gkdplan[run,vllm]'`",
            'or set `generation.engine` to "megatron", which needs nothing more',
        ),
    )
