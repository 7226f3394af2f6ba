"""A rank's state of training holds what it trains, on stages of a pipeline and for experts."""

from dataclasses import replace
from pathlib import Path

import torch
from gloo_ranks import run_on_ranks
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from safetensors.torch import load_file, save_file
from test_megatron_training import NUM_STEPS, ONE, OPTIMIZER, VOCAB_SIZE, _megatron_loss, _same
from tiny_models import plan_of, start_mesh
from torch import Tensor

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import OptimizerPlan
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.megatron.forward import stage_output
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.random_states import (
    load_random_state_tensors,
    random_state_tensors,
)
from gkdplan.runtime.megatron.saved_state import SavedState, write_state
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.megatron.training_state import load_state, state_tensors
from gkdplan.runtime.megatron.weights import load_weights
from gkdplan.vocab import Dtype

PIPELINE_2 = replace(ONE, pipeline=2)
TENSOR_2_EXPERT_2 = AxisDegrees(tensor=2, sequence=True, data=1, expert=2)
CASES = (
    ("qwen3", PIPELINE_2, ((1,), (2,))),
    ("qwen3-moe-tied", replace(PIPELINE_2, virtual_pipeline=2), ((1, 1), (1, 1))),
    ("mixtral", replace(ONE, data=2, expert=2), ((4,),)),
    ("qwen2-moe", TENSOR_2_EXPERT_2, ((4,),)),
)
OPTIMIZERS = ((Dtype.FP32, False), (Dtype.BF16, True))


def test_a_resumed_run_is_bit_identical_on_every_axis(checkpoints: Path, tmp_path: Path) -> None:
    run_on_ranks(_resumes_exactly, 2, checkpoints, tmp_path)


def test_random_states_continue(tmp_path: Path) -> None:
    run_on_ranks(_draws_go_on, 1, tmp_path / "random.safetensors")


def _resumes_exactly(checkpoints: Path, directory: Path) -> None:
    for name, degrees, stage_layers in CASES:
        mesh = start_mesh(degrees)
        for dtype, distributed in OPTIMIZERS:
            path = directory / f"{mesh.rank}.safetensors"
            plan = plan_of(name, degrees.tensor, dtype=dtype, stage_layers=stage_layers)
            optimizer = replace(OPTIMIZER, distributed=distributed)
            arguments = (checkpoints / name, plan, degrees, mesh, optimizer)
            uninterrupted = _trainer(*arguments)
            _train(uninterrupted, mesh)
            write_state(path, *state_tensors(uninterrupted, plan, mesh))
            resumed = _trainer(*arguments)
            for chunk in resumed.chunks:
                for parameter in chunk.parameters():
                    parameter.data.fill_(float("nan"))
            with SavedState([path]) as saved:
                load_state(saved, resumed, plan, mesh)
            assert _same(_parameters(resumed), _parameters(uninterrupted)), name
            assert _train(resumed, mesh) == _train(uninterrupted, mesh), name
            assert _same(_parameters(resumed), _parameters(uninterrupted)), name
            states = [state_tensors(trainer, plan, mesh) for trainer in (resumed, uninterrupted)]
            assert states[0][1] == states[1][1], name
            assert _same(states[0][0], states[1][0]), name


def _trainer(
    directory: Path, plan: ModelPlan, degrees: AxisDegrees, mesh: Mesh, optimizer: OptimizerPlan
) -> Trainer:
    chunks = build_chunks(plan, degrees, mesh, trainable=True)
    load_weights(chunks, directory, plan, mesh)
    return Trainer(chunks, optimizer, mesh, NUM_STEPS)


def _train(trainer: Trainer, mesh: Mesh) -> list[tuple[float, float]]:
    """Loss and norm of two steps of four micro-batches on all data ranks."""
    generator = torch.Generator().manual_seed(5)
    batches = list(torch.randint(0, VOCAB_SIZE, (4, 2, 24), generator=generator))
    share = batches[mesh.data_rank :: mesh.data_size]
    return [
        (float(trainer.forward_backward(share, _output, shape=(2, 24))), trainer.step())
        for _ in range(2)
    ]


def _output(chunk, tokens_BS: Tensor) -> Tensor:
    if not chunk.post_process:
        return stage_output(chunk, tokens_BS)
    return _megatron_loss(chunk, tokens_BS)


def _parameters(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": parameter
        for index, chunk in enumerate(trainer.chunks)
        for name, parameter in chunk.named_parameters()
    }


def _draws_go_on(path: Path) -> None:
    start_mesh(ONE)
    _draw()
    save_file(random_state_tensors(), path)
    expected = _draw()
    assert _draw() != expected
    load_random_state_tensors(load_file(path))
    assert _draw() == expected


def _draw() -> list[float]:
    with get_cuda_rng_tracker().fork():
        named = torch.rand(3)
    return [*torch.rand(3).tolist(), *named.tolist()]
