"""The router beside transformers' router, on the same bf16 weights and inputs.

Legend: N tokens, H hidden size, E experts.
"""

from pathlib import Path

import torch
from gloo_ranks import run_on_ranks
from tiny_models import DEEPSEEK, IN_EVERY_LAYER, load_hf, plan_of, start_mesh
from tiny_training import ONE
from torch import Tensor

from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.megatron.weights import load_weights
from gkdplan.vocab import Dtype

NUM_TOKENS = 4096
BF16_LAYOUT = {"stage_layers": ((4,),), "dtype": Dtype.BF16}


def test_a_router_of_bf16_weights_chooses_and_weighs_as_transformers_in_float32(
    checkpoints: Path,
) -> None:
    run_on_ranks(_equal_routers, 1, checkpoints)


def test_experts_in_bf16_are_nearer_to_float64_than_those_of_transformers(
    checkpoints: Path,
) -> None:
    run_on_ranks(_equal_errors, 1, checkpoints)


def test_what_is_added_where_experts_are_chosen_is_not_trained() -> None:
    run_on_ranks(_frozen_biases, 1)


def _frozen_biases() -> None:
    """Of a trained V3, whose first layer has no router; other routers have no such numbers."""
    mesh = start_mesh(ONE)
    for name, num_frozen in (("deepseek-v3", 3), ("deepseek-v2", 0)):
        plan = plan_of(name, 1, **BF16_LAYOUT)
        model = build_model(plan, ONE, mesh, trainable=True)
        frozen = [(n, p) for n, p in model.named_parameters() if not p.requires_grad]
        assert len(frozen) == num_frozen
        assert all(n.endswith("router.expert_bias") for n, _ in frozen)
        assert all(p.dtype is torch.float32 for _, p in frozen)


@torch.no_grad()
def _equal_routers(checkpoints: Path) -> None:
    for name in (*IN_EVERY_LAYER, *DEEPSEEK):
        model = _loaded(name, checkpoints)
        reference = load_hf(name, checkpoints, torch.bfloat16)
        gate = reference.model.layers[1].mlp.gate
        inputs_NH = _inputs(model.config.hidden_size)
        weights_NE, chosen_NE = model.decoder.layers[1].mlp.router(inputs_NH[:, None])
        rounded_NE = _scattered(*gate(inputs_NH))
        exact_NE = _scattered(*gate.double()(inputs_NH.double()))
        expected_NE = _scattered(*gate.float()(inputs_NH.float()))
        torch.testing.assert_close(weights_NE, expected_NE, rtol=1e-5, atol=1e-7)
        assert torch.equal(chosen_NE, expected_NE > 0)
        assert torch.equal(chosen_NE, exact_NE > 0)
        differently = (chosen_NE != (rounded_NE > 0)).any(-1).sum()
        if name in DEEPSEEK:
            assert differently == 0, "transformers multiplies in float32 too"
        else:
            assert 0 < differently < NUM_TOKENS // 50, "bf16 logits are to decide few near ties"


@torch.no_grad()
def _equal_errors(checkpoints: Path) -> None:
    for name in IN_EVERY_LAYER:
        model = _loaded(name, checkpoints)
        inputs_NH = _inputs(model.config.hidden_size)
        found, _ = model.decoder.layers[1].mlp(inputs_NH[:, None])
        block = load_hf(name, checkpoints, torch.bfloat16).model.layers[1].mlp
        rounded = block(inputs_NH[None])
        exact = block.double()(inputs_NH[None].double())[0]
        found_error, rounded_error = (
            float((output.double() - exact).norm() / exact.norm())
            for output in (found[:, 0], rounded[0])
        )
        assert found_error < min(0.006, 0.9 * rounded_error), f"{name}: {found_error}"


def _inputs(hidden_size: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(NUM_TOKENS, hidden_size, generator=generator).bfloat16()


def _loaded(name: str, checkpoints: Path) -> torch.nn.Module:
    mesh = start_mesh(ONE)
    plan = plan_of(name, 1, **BF16_LAYOUT)
    model = build_model(plan, ONE, mesh, trainable=False)
    load_weights([model], checkpoints / name, plan, mesh)
    return model


def _scattered(logits_NE: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
    """What transformers' router gives, as one weight for each expert."""
    return torch.zeros(logits_NE.shape).scatter(1, chosen_NK, weights_NK.float())
