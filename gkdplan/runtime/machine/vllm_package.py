"""Whether vLLM is installed, whichever build: the official one, or that for CPUs, whose own list of
packages may have been left out."""

from importlib.util import find_spec

from gkdplan.diagnostics import Diagnostic, error


def has_vllm() -> bool:
    """It is not imported, which takes seconds."""
    return find_spec("vllm") is not None


def can_see() -> bool:
    """Whether what vLLM's models that see import is there too."""
    return find_spec("torchvision") is not None


def cannot_see() -> Diagnostic:
    """GK527."""
    return error(
        "GK527",
        "the plan samples from images with vllm, whose models that see import `torchvision`, which "
        "is not installed here",
        "generation.engine",
        help=(
            "install the `torchvision` of this torch's build",
            'or set `generation.engine` to "megatron", which needs nothing more',
        ),
    )


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


def no_vllm_for_pixels() -> Diagnostic:
    """GK527."""
    return error(
        "GK527",
        "the teacher's servers take images in vllm's own encoding, and vllm is not installed here",
        "teacher.server",
        help=("install it: `pip install 'gkdplan[run,vllm]'`",),
    )
