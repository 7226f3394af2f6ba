"""What vLLM's models that see import beside vllm itself, where no GPU is."""

import os
import sys
from pathlib import Path

INSTALLED = Path(sys.prefix) / "for-images"
"""torchvision and mistral-common, apart from all else: the Makefile puts them there."""
DECLARING = Path(__file__).with_name("torchvision_for_cpu")


def path_for_images() -> str:
    """PYTHONPATH of a process that opens such a model, and of those that it starts: vLLM looks at a
    model's class in one."""
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(DECLARING), str(INSTALLED), *([given] if given else [])])
