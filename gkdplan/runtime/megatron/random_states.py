"""The random states of this process: torch's generators, and Megatron's named states."""

from collections.abc import Mapping

import torch
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from torch import Tensor

from gkdplan.runtime.megatron.platform import device

_HOST, _DEVICE, _NAMED = "random.host", "random.device", "random.named."


def random_state_tensors() -> dict[str, Tensor]:
    """Every state as bytes, uint8, on the host."""
    states = {f"{_NAMED}{name}": s for name, s in get_cuda_rng_tracker().get_states().items()}
    if device().type == "cuda":
        states[_DEVICE] = torch.cuda.get_rng_state()
    return {_HOST: torch.get_rng_state(), **states}


def load_random_state_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Go on drawing where `random_state_tensors` was taken; other tensors are left alone."""
    torch.set_rng_state(tensors[_HOST])
    if device().type == "cuda":
        torch.cuda.set_rng_state(tensors[_DEVICE])
    get_cuda_rng_tracker().set_states(
        {name.removeprefix(_NAMED): s for name, s in tensors.items() if name.startswith(_NAMED)}
    )
