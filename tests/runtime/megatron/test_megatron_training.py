"""Gradients, updates and resumption against torch's AdamW on transformers in float64.

Legend: B rows, S tokens, N chosen tokens, H hidden size, V vocabulary (or a rank's share of it).
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from tiny_models import load_hf, plan_of, start_mesh
from tiny_training import (
    CONSTANT_RATE,
    DATA_2,
    ONE,
    TENSOR_2,
    TENSOR_2_SEQUENCE,
    VOCAB_SIZE,
    loss_of_logits,
)
from torch import Tensor

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import OptimizerPlan
from gkdplan.runtime.megatron.forward import output_head, response_hidden
from gkdplan.runtime.megatron.full_tensors import full_tensors
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.megatron.saved_state import SavedState, write_state
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.megatron.training_state import load_state, state_tensors
from gkdplan.runtime.megatron.weights import load_weights
from gkdplan.vocab import Dtype

NUM_STEPS = 6
OPTIMIZER = replace(
    CONSTANT_RATE, min_lr=1e-3, schedule="cosine", warmup_steps=2, weight_decay=0.3, clip_grad=0.1
)
# Linear to 1e-2 over 2 updates, then 1e-3 + 9e-3 (1 + cos(pi (k - 2) / 4)) / 2 for k = 3 to 6.
RATES = [5e-3, 1e-2, 8.681981e-3, 5.5e-3, 2.318019e-3, 1e-3]


NAMES = ("qwen2", "qwen3", "olmo2", "gemma2-plain", "deepseek-v3-dense")
LAYOUTS_OF_TWO = (TENSOR_2, TENSOR_2_SEQUENCE, DATA_2)


def test_one_process_trains_as_torch_does(checkpoints: Path) -> None:
    run_on_ranks(_train_as_torch_does, 1, checkpoints, list(product([ONE], NAMES)))


def test_two_processes_train_as_torch_does(checkpoints: Path) -> None:
    """One model in every layout, and every model in one."""
    cases = [(degrees, NAMES[0]) for degrees in LAYOUTS_OF_TWO]
    cases += zip(cycle([TENSOR_2_SEQUENCE, DATA_2]), NAMES[1:], strict=False)
    run_on_ranks(_train_as_torch_does, 2, checkpoints, cases)


@pytest.mark.grid
def test_two_processes_train_every_model_as_torch_does(checkpoints: Path) -> None:
    run_on_ranks(_train_as_torch_does, 2, checkpoints, list(product(LAYOUTS_OF_TWO, NAMES)))


def test_a_resumed_run_is_bit_identical_on_one_process(checkpoints: Path, tmp_path: Path) -> None:
    run_on_ranks(_resumes_exactly, 1, checkpoints, [ONE], tmp_path)


def test_a_resumed_run_is_bit_identical_on_two_processes(checkpoints: Path, tmp_path: Path) -> None:
    run_on_ranks(_resumes_exactly, 2, checkpoints, [TENSOR_2_SEQUENCE, DATA_2], tmp_path)


def test_a_gradient_that_is_not_finite_shows_in_the_norm(checkpoints: Path) -> None:
    run_on_ranks(_overflow_shows, 1, checkpoints)


def _train_as_torch_does(checkpoints: Path, cases: list[tuple[AxisDegrees, str]]) -> None:
    for degrees, name in cases:
        mesh = start_mesh(degrees)
        for distributed in (False, True):
            plan = replace(OPTIMIZER, distributed=distributed)
            _assert_trains_as_torch_does(checkpoints, name, degrees, mesh, plan)


def _assert_trains_as_torch_does(
    checkpoints: Path, name: str, degrees: AxisDegrees, mesh: Mesh, plan: OptimizerPlan
) -> None:
    trainer = _trainer(checkpoints, name, degrees, mesh, plan)
    reference = load_hf(name, checkpoints).train()
    for expected in _torch_steps(reference, plan):
        loss = trainer.forward_backward(_share_of(mesh), _megatron_loss)
        torch.distributed.all_reduce(loss)
        _assert_relative(loss, expected["loss"], 1e-5)
        if not plan.distributed:
            for key, gradient in _gradients(trainer, name, degrees, mesh).items():
                _assert_relative(gradient, expected["gradients"][key], 1e-5, key)
        _assert_relative(torch.tensor(trainer.step()), expected["norm"], 1e-5)
        assert math.isclose(trainer.lr, expected["lr"], rel_tol=1e-6)
    initial = load_hf(name, checkpoints).state_dict()
    for key, value in full_tensors(trainer.chunks, plan_of(name, degrees.tensor), mesh):
        moved = reference.state_dict()[key] - initial[key]
        _assert_relative(value - initial[key], moved, 1e-4, key)


def _torch_steps(model: Any, plan: OptimizerPlan) -> Iterator[dict[str, Any]]:
    """NUM_STEPS updates of transformers' model by torch's AdamW, all micro-batches at once."""
    parameters = dict(model.named_parameters())
    matrices = [value for value in parameters.values() if value.dim() == 2]
    vectors = [value for value in parameters.values() if value.dim() == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, betas=plan.betas, eps=plan.eps, weight_decay=plan.weight_decay
    )
    for rate in RATES:
        loss = sum(
            loss_of_logits(model(tokens_BS).logits.flatten(0, 1)[_predict(tokens_BS)])
            for tokens_BS in _micro_batches()
        )
        loss.backward()
        gradients = {key: value.grad.clone() for key, value in parameters.items()}
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), plan.clip_grad)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        yield {"loss": loss.detach(), "gradients": gradients, "norm": norm, "lr": rate}


def _micro_batches() -> list[Tensor]:
    """Four micro-batches of unequal, odd lengths."""
    generator = torch.Generator().manual_seed(11)
    return [
        torch.randint(0, VOCAB_SIZE, (2, length), generator=generator)
        for length in (13, 30, 21, 40)
    ]


def _share_of(mesh: Mesh) -> list[Tensor]:
    return _micro_batches()[mesh.data_rank :: mesh.data_size]


def _predict(tokens_BS: Tensor) -> Tensor:
    """Some tokens of both rows, in the flattened order; the last token of a row among them."""
    return torch.arange(4, tokens_BS.numel(), 3)


def _megatron_loss(model: Any, tokens_BS: Tensor) -> Tensor:
    head_VH = output_head(model)
    logits_NV = response_hidden(model, tokens_BS, _predict(tokens_BS)) @ head_VH.t()
    return loss_of_logits(logits_NV, model.pg_collection.tp.rank() * len(head_VH))


def _trainer(
    checkpoints: Path,
    name: str,
    degrees: AxisDegrees,
    mesh: Mesh,
    optimizer: OptimizerPlan,
    dtype: Dtype = Dtype.FP32,
) -> Trainer:
    plan = plan_of(name, degrees.tensor, dtype=dtype)
    model = build_model(plan, degrees, mesh, trainable=True)
    load_weights([model], checkpoints / name, plan, mesh)
    return Trainer([model], optimizer, mesh, NUM_STEPS)


def _gradients(trainer: Trainer, name: str, degrees: AxisDegrees, mesh: Mesh) -> dict[str, Tensor]:
    """The reduced gradients under Hugging Face names, through a model that holds them."""
    plan = plan_of(name, degrees.tensor)
    holder = build_model(plan, degrees, mesh, trainable=False)
    for held, parameter in zip(holder.parameters(), trainer.chunks[0].parameters(), strict=True):
        held.data.copy_(parameter.main_grad)
    return dict(full_tensors([holder], plan, mesh))


def _resumes_exactly(checkpoints: Path, layouts: list[AxisDegrees], directory: Path) -> None:
    for degrees in layouts:
        mesh = start_mesh(degrees)
        for dtype in (Dtype.FP32, Dtype.BF16):
            for distributed in (False, True):
                plan = replace(OPTIMIZER, distributed=distributed)
                arguments = (checkpoints, "qwen3", degrees, mesh, plan, dtype)
                for num_before in (0, 2):
                    uninterrupted = _trainer(*arguments)
                    _train(uninterrupted, mesh, num_before)
                    path = directory / f"{mesh.rank}.safetensors"
                    model = plan_of("qwen3", degrees.tensor, dtype=dtype)
                    write_state(path, *state_tensors(uninterrupted, model, mesh))
                    resumed = _trainer(*arguments)
                    for parameter in resumed.chunks[0].parameters():
                        parameter.data.fill_(float("nan"))
                    with SavedState([path]) as saved:
                        load_state(saved, resumed, model, mesh)
                    assert _same_parameters(resumed, uninterrupted)
                    expected = _train(uninterrupted, mesh, 2)
                    assert _train(resumed, mesh, 2) == expected
                    assert _same_parameters(resumed, uninterrupted)
                    states = [state_tensors(t, model, mesh)[0] for t in (resumed, uninterrupted)]
                    assert _same(*states)


def _train(trainer: Trainer, mesh: Mesh, num_steps: int) -> list[tuple[float, float, float]]:
    return [
        (
            float(trainer.forward_backward(_share_of(mesh), _megatron_loss)),
            trainer.step(),
            trainer.lr,
        )
        for _ in range(num_steps)
    ]


def _same_parameters(one: Trainer, other: Trainer) -> bool:
    return _same(dict(one.chunks[0].named_parameters()), dict(other.chunks[0].named_parameters()))


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _overflow_shows(checkpoints: Path) -> None:
    mesh = start_mesh(ONE)
    for distributed in (False, True):
        plan = replace(OPTIMIZER, distributed=distributed)
        trainer = _trainer(checkpoints, "qwen3", ONE, mesh, plan)
        trainer.forward_backward(
            _micro_batches(), lambda model, tokens_BS: _megatron_loss(model, tokens_BS) * math.inf
        )
        assert not math.isfinite(trainer.step())


def _assert_relative(value: Tensor, expected: Tensor, tolerance: float, name: str = "") -> None:
    """The largest error, relative to the largest element."""
    error = float((value.double() - expected).abs().max() / expected.abs().max())
    assert error < tolerance, (name, error)
