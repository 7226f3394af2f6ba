"""What dropout leaves out of the inputs of adapters, on each tensor rank and when it is recomputed.

Legend: B rows, S tokens.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from tiny_models import hidden_states, plan_of, start_mesh
from tiny_training import CONSTANT_RATE, TENSOR_2, TENSOR_2_SEQUENCE, VOCAB_SIZE
from torch import Tensor

from gkdplan.projections import PROJECTIONS
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import LoraPlan, Recompute
from gkdplan.runtime.megatron.forward import response_hidden
from gkdplan.runtime.megatron.lora import dense, is_adapter
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.megatron.weights import load_weights
from gkdplan.vocab import Dtype

FAMILY = "qwen2"
ADAPTERS = LoraPlan(3, 5.0, 0.5, PROJECTIONS, num_parameters=0)
RECOMPUTES = (
    Recompute("full", "uniform", 1),
    Recompute("full", "block", 1),
    Recompute("selective", modules=("mlp", "core_attn")),
)


def test_tensor_ranks_drop_the_same_of_a_whole_input_and_their_own_of_a_cut_one(
    checkpoints: Path,
) -> None:
    run_on_ranks(_check_masks, 2, checkpoints)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_recomputed_layers_drop_what_they_dropped(checkpoints: Path, num_ranks: int) -> None:
    run_on_ranks(_check_recomputed, num_ranks, checkpoints)


def _check_masks(checkpoints: Path) -> None:
    """In each layer the inputs of the fused qkv, the output projection, and both of the mlp."""
    for degrees in (TENSOR_2, TENSOR_2_SEQUENCE):
        model, _ = _model(checkpoints, degrees, Recompute())
        with _masks() as masks, torch.no_grad():
            hidden_states(model, _micro_batches()[0])
        assert len(masks) == 4 * len(model.decoder.layers)
        for index, mask in enumerate(masks):
            assert 0.3 < float(mask.float().mean()) < 0.7
            is_cut = index % 2 == 1 or degrees.sequence
            both = [torch.empty_like(mask) for _ in range(2)]
            dist.all_gather(both, mask)
            assert torch.equal(*both) is not is_cut, (degrees, index)


def _check_recomputed(checkpoints: Path) -> None:
    size = dist.get_world_size()
    degrees = AxisDegrees(tensor=size, sequence=size > 1, data=1)
    kept = _gradients(checkpoints, degrees, Recompute())
    assert all(gradient.any() for gradient in kept.values())
    for recompute in RECOMPUTES:
        recomputed = _gradients(checkpoints, degrees, recompute)
        for name, gradient in kept.items():
            assert torch.equal(recomputed[name], gradient), (recompute, name)


def _gradients(checkpoints: Path, degrees: AxisDegrees, recompute: Recompute) -> dict[str, Tensor]:
    """Of every factor, from the same weights and random states."""
    model, mesh = _model(checkpoints, degrees, recompute)
    Trainer([model], CONSTANT_RATE, mesh, num_steps=1).forward_backward(_micro_batches(), _loss)
    return {name: factor.main_grad.clone() for name, factor in _factors(model).items()}


def _model(checkpoints: Path, degrees: AxisDegrees, recompute: Recompute) -> tuple[Any, Any]:
    mesh = start_mesh(degrees)
    plan = plan_of(FAMILY, degrees.tensor, dtype=Dtype.FP32, lora=ADAPTERS)
    model = build_model(replace(plan, recompute=recompute), degrees, mesh, trainable=True)
    load_weights([model], checkpoints / FAMILY, plan, mesh)
    for name, factor in _factors(model).items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        factor.data.copy_(0.1 * torch.randn(factor.shape, generator=generator))
    return model, mesh


def _factors(model: Any) -> dict[str, Any]:
    return {name: p for name, p in model.named_parameters() if is_adapter(name)}


def _loss(model: Any, tokens_BS: Tensor) -> Tensor:
    return response_hidden(model, tokens_BS, torch.arange(tokens_BS.numel())).square().mean()


def _micro_batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, VOCAB_SIZE, (2, n), generator=generator) for n in (12, 24)]


@contextmanager
def _masks() -> Iterator[list[Tensor]]:
    """What dropout leaves out, uint8, of one input after the other."""
    masks: list[Tensor] = []
    real = dense.dropout

    def dropout(input: Tensor, share: float, training: bool) -> Tensor:
        kept = real(input, share, training)
        masks.append(((kept == 0.0) & (input != 0.0)).byte())
        return kept

    with patch.object(dense, "dropout", dropout):
        yield masks
