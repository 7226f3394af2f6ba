"""The only room that imports megatron-core.

Megatron marks functions for torch's compiler as it is imported (megatron/core/jit.py), which loads
the compiler: two seconds of each process. Where there is no CUDA device nothing is compiled, and
the compiler stays out.
"""

import torch

if not torch.cuda.is_available():
    compiler, torch.compile = torch.compile, lambda function: function
    try:
        import megatron.core  # noqa: F401
    finally:
        torch.compile = compiler
    del compiler
