"""Adapters on experts against transformers in float64, whose matrices of all experts are merged.

Legend: E experts, H hidden size, F width of an expert.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from test_megatron_lora import ALPHA, OF_ROUNDING, RANK, _megatron_loss, _micro_batches
from tiny_models import load_hf, plan_of, start_mesh
from tiny_training import CONSTANT_RATE, ONE, loss_of_logits
from torch import Tensor

from gkdplan.projections import PROJECTIONS
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import LoraPlan
from gkdplan.runtime.megatron.adapters import draw_adapters, whole_adapters
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.megatron.parameters import adapter_parameters
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.megatron.weights import load_weights

FAMILIES = ("mixtral", "qwen3-moe-tied", "qwen3-moe-mixed", "olmoe")
EXPERT_2 = AxisDegrees(tensor=1, sequence=False, data=2, expert=2)
TENSOR_2_EXPERT_2 = AxisDegrees(tensor=2, sequence=True, data=1, expert=2)
BOTH_TENSOR_2 = AxisDegrees(tensor=2, sequence=True, data=1, expert_tensor=2)
_OF_AN_EXPERT = re.compile(r"(model\.layers\.\d+)\.\w+\.experts\.(\d+)\.(\w+)")
PLACES = {"gate_proj": 0, "w1": 0, "up_proj": 1, "w3": 1, "down_proj": 2, "w2": 2}

Factors = dict[str, tuple[Tensor, Tensor]]


def test_experts_adapters_have_the_gradients_of_merged_weights(checkpoints: Path) -> None:
    run_on_ranks(_check, 1, checkpoints, [ONE])


def test_experts_adapters_have_them_on_two_processes(checkpoints: Path) -> None:
    run_on_ranks(_check, 2, checkpoints, [EXPERT_2, TENSOR_2_EXPERT_2, BOTH_TENSOR_2])


@pytest.mark.grid
def test_experts_adapters_have_them_on_four_processes(checkpoints: Path) -> None:
    degrees = AxisDegrees(tensor=2, sequence=True, data=2, expert=2, expert_tensor=2)
    run_on_ranks(_check, 4, checkpoints, [degrees])


def _check(checkpoints: Path, layouts: list[AxisDegrees]) -> None:
    for degrees in layouts:
        mesh = start_mesh(degrees)
        for name in FAMILIES:
            lora = LoraPlan(RANK, ALPHA, 0.0, PROJECTIONS, num_parameters=0)
            plan = plan_of(name, degrees.tensor, lora=lora)
            model = build_model(plan, degrees, mesh, trainable=True)
            load_weights([model], checkpoints / name, plan, mesh)
            draw_adapters([model], plan, mesh, seed=3, both=True)
            factors = {
                key: (a.double().requires_grad_(), b.double().requires_grad_())
                for key, a, b in whole_adapters([model], plan, mesh)
            }
            trainer = Trainer([model], CONSTANT_RATE, mesh, num_steps=1)
            share = _micro_batches()[mesh.data_rank :: mesh.data_size]
            loss = trainer.forward_backward(share, _megatron_loss)
            torch.distributed.all_reduce(loss)
            expected, gradients = _reference(load_hf(name, checkpoints), factors)
            torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=OF_ROUNDING)
            norm = torch.stack([g.norm() for pair in gradients.values() for g in pair]).norm()
            with torch.no_grad():
                for _, parameter in adapter_parameters([model], plan, mesh):
                    parameter.copy_(parameter.main_grad)
            for key, *found in whole_adapters([model], plan, mesh):
                for mine, wanted in zip(found, gradients[key], strict=True):
                    error = float((mine - wanted).abs().max() / max(1e-3, wanted.abs().max()))
                    assert error < 1e-5, (name, degrees, key, error)
            torch.testing.assert_close(trainer.step(), float(norm), rtol=1e-5, atol=0.0)


def _reference(model: Any, factors: Factors) -> tuple[Tensor, Factors]:
    """The loss of all micro-batches and the gradients of every A and B."""
    merged = _merged(model, factors)
    loss = torch.zeros((), dtype=torch.float64)
    for tokens_BS in _micro_batches():
        logits = torch.func.functional_call(model, merged, (tokens_BS,)).logits
        loss = loss + loss_of_logits(logits.flatten(0, 1))
    leaves = [factor for pair in factors.values() for factor in pair]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    pairs = zip(gradients[::2], gradients[1::2], strict=True)
    return loss.detach(), dict(zip(factors, pairs, strict=True))


def _merged(model: Any, factors: Factors) -> dict[str, Tensor]:
    """W + alpha / rank B A: of experts gate and up [E, 2 F, H] and down [E, H, F], stacked."""
    merged = {name: value.detach() for name, value in model.named_parameters()}
    of_experts: dict[str, dict[tuple[int, int], Tensor]] = {}
    for name, (a, b) in factors.items():
        change = ALPHA / RANK * b @ a
        if expert := _OF_AN_EXPERT.fullmatch(name):
            changes = of_experts.setdefault(f"{expert[1]}.mlp.experts", {})
            changes[int(expert[2]), PLACES[expert[3]]] = change
        else:
            merged[f"{name}.weight"] = merged[f"{name}.weight"] + change
    for experts, changes in of_experts.items():
        numbers = sorted({number for number, _ in changes})
        both = torch.stack([torch.cat([changes[n, 0], changes[n, 1]]) for n in numbers])
        down = torch.stack([changes[n, 2] for n in numbers])
        merged[f"{experts}.gate_up_proj"] = merged[f"{experts}.gate_up_proj"] + both
        merged[f"{experts}.down_proj"] = merged[f"{experts}.down_proj"] + down
    return merged
