"""What only a CUDA device can show: `pytest -m gpu`. Elsewhere nothing of it is selected, because a
GPU that is stood in for shows nothing of a GPU."""

import os
import sys
from pathlib import Path

import pytest
import torch

ROOM = Path(__file__).parents[1] / "runtime"
sys.path[:0] = [str(ROOM), str(ROOM / "megatron")]


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Skips where there is no GPU. Float32 products are float32: torch's default."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture(scope="session")
def one_rank(gpu) -> None:
    """This process as the only rank of an nccl group."""
    from gkdplan.runtime.megatron import platform

    os.environ["LOCAL_RANK"] = "0"
    platform.prepare("nccl")
    torch.distributed.init_process_group(
        "nccl", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()
