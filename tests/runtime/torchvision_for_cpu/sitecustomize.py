"""torchvision beside torch's build for CPUs, in every process that has this directory on its path.

vLLM's models that see import it, for image processors that gkdplan never asks. PyPI has torchvision
for CUDA alone: of such a wheel all but its operators in C++ is importable, once those are declared
that it describes as it is imported.
"""

import importlib.abc
import sys

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = ("nms", "qnms")


class Declares(importlib.abc.MetaPathFinder):
    """Finds nothing; what it is asked for says when to declare."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            from torch import library

            sys.meta_path.remove(self)
            for operator in OPERATORS:
                library.define(f"torchvision::{operator}", SCHEMA)


sys.meta_path.insert(0, Declares())
