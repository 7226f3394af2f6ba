"""The planner's picture of one rank's model, against the GPTModel that megatron-core builds."""

from dataclasses import replace

import pytest
from gloo_ranks import run_on_ranks
from tiny_models import deep, plan_of, saved_bytes, start_mesh

from gkdplan.families.tensors import projections_of
from gkdplan.planner.memory.activations import layer_bytes
from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.fused import TORCH_ON_CPU
from gkdplan.planner.memory.model import rank_model
from gkdplan.projections import PROJECTIONS, parts_of
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import LoraPlan
from gkdplan.runtime.megatron import generate
from gkdplan.runtime.megatron.model import build_model
from gkdplan.shape import LATENT_PROJECTIONS
from gkdplan.vocab import Dtype

LATENT = ("deepseek-v3-dense",)
NORMED = ("olmo2", "gemma2-plain")
FAMILIES = ("llama", "llama-tied", "llama-one-kv-head", "qwen2", "qwen3", *LATENT, *NORMED)
ADAPTED = ("llama", "qwen2", "qwen3", "phi3", *LATENT)
BATCH = Batch(rows=3, tokens=64)
EVERY = (*PROJECTIONS, *LATENT_PROJECTIONS)
ADAPTERS = {
    "all-linear": LoraPlan(4, 8.0, 0.0, EVERY, num_parameters=0),
    "dropout": LoraPlan(4, 8.0, 0.1, EVERY, num_parameters=0),
    "q and v": LoraPlan(5, 8.0, 0.0, ("q_proj", "v_proj", "q_b_proj"), num_parameters=0),
    "some, dropout": LoraPlan(3, 8.0, 0.2, ("o_proj", "up_proj", "q_a_proj"), num_parameters=0),
}


@pytest.mark.parametrize("tensor", [1, 2])
def test_parameters_have_megatrons_names_sizes_and_order(tensor):
    run_on_ranks(_check_parameters, tensor, tensor)


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("dtype", list(Dtype))
def test_a_layer_keeps_exactly_what_the_ledger_says(dtype, tensor):
    run_on_ranks(_check_layers, tensor, dtype, tensor)


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("adapters", ADAPTERS)
def test_adapters_and_a_frozen_base_are_what_the_ledger_says(adapters, tensor):
    run_on_ranks(_check_adapters, tensor, ADAPTERS[adapters], tensor)


def test_the_prompts_of_one_forward_are_as_many_as_the_runtime_takes():
    from gkdplan.planner.memory import generation

    assert generation.PREFILL_TOKENS == generate.PREFILL_TOKENS


def _check_parameters(tensor: int) -> None:
    degrees = AxisDegrees(tensor=tensor, sequence=tensor > 1, data=1)
    mesh = start_mesh(degrees)
    for family in FAMILIES:
        plan = plan_of(family, tensor)
        model = build_model(plan, degrees, mesh, trainable=True)
        found = [(name, parameter.numel()) for name, parameter in model.named_parameters()]
        expected = rank_model(plan, degrees, TORCH_ON_CPU, stage=0).chunks[0]
        assert found == [(p.name, p.num_elements) for p in expected], family


def _check_layers(dtype: Dtype, tensor: int) -> None:
    """The difference of two depths is one layer, whatever the ends keep."""
    for sequence in {False, tensor > 1}:
        degrees = AxisDegrees(tensor=tensor, sequence=sequence, data=1)
        mesh = start_mesh(degrees)
        for family in FAMILIES:
            plan = replace(plan_of(family, tensor), dtype=dtype)
            two, three = (saved_bytes(deep(plan, n), degrees, mesh, BATCH) for n in (2, 3))
            planned = layer_bytes(rank_model(plan, degrees, TORCH_ON_CPU, stage=0), BATCH)
            assert three - two == planned, f"{family}, sequence {sequence}"


def _check_adapters(lora: LoraPlan, tensor: int) -> None:
    for sequence in {False, tensor > 1}:
        degrees = AxisDegrees(tensor=tensor, sequence=sequence, data=1)
        mesh = start_mesh(degrees)
        for family, dtype in ((f, d) for f in ADAPTED for d in Dtype):
            plan = plan_of(family, tensor)
            own = projections_of(plan.shape)
            holding = tuple(t for t in own if not set(parts_of(t)).isdisjoint(lora.targets))
            plan = replace(plan, dtype=dtype, lora=replace(lora, targets=holding))
            planned = rank_model(plan, degrees, TORCH_ON_CPU, stage=0)
            model = build_model(plan, degrees, mesh, trainable=True)
            found = [(n, p.numel(), p.requires_grad) for n, p in model.named_parameters()]
            (expected,) = planned.chunks
            assert found == [(p.name, p.num_elements, p.is_trained) for p in expected], family
            one, two, three = (saved_bytes(deep(plan, n), degrees, mesh, BATCH) for n in (1, 2, 3))
            of_a_layer = layer_bytes(planned, BATCH)
            assert three - two == two - one == of_a_layer, f"{family}, {dtype}, {sequence}"
