"""Adapters against transformers in float64, whose projections are merged: W + alpha / rank B A.

Legend: B rows, S tokens, H hidden size, V vocabulary (or a rank's share of it).
"""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from tiny_models import hidden_states, load_hf, plan_of, start_mesh
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

from gkdplan.families.tensors import projections_of
from gkdplan.projections import PROJECTIONS, parts_of
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import LoraPlan, ModelPlan, Recompute
from gkdplan.runtime.megatron.adapters import draw_adapters, merged_tensors
from gkdplan.runtime.megatron.forward import output_head, response_hidden
from gkdplan.runtime.megatron.lora import is_adapter
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.megatron.trainer import Trainer
from gkdplan.runtime.megatron.weights import load_weights
from gkdplan.shape import LATENT_PROJECTIONS
from gkdplan.vocab import Dtype

FAMILIES = ("llama-tied", "qwen2", "qwen3", "olmo2", "gemma2-plain", "phi3", "glm4")
LATENT = "deepseek-v3-dense"
EVERY = (*PROJECTIONS, *LATENT_PROJECTIONS)
TARGETS = (EVERY, ("q_proj", "v_proj", "up_proj"), ("o_proj",))
NO_RECOMPUTE = Recompute()
RANK, ALPHA = 3, 5.0
OF_ROUNDING = 1e-6
"""The loss is a sum of terms of both signs, each as large as 1, that may come near to zero."""


def test_adapters_have_the_gradients_of_merged_weights_on_one_process(checkpoints: Path) -> None:
    run_on_ranks(_check_gradients, 1, checkpoints, [ONE])


def test_adapters_have_the_gradients_of_merged_weights_on_two_processes(checkpoints: Path) -> None:
    run_on_ranks(_check_gradients, 2, checkpoints, [TENSOR_2, TENSOR_2_SEQUENCE, DATA_2])


RECOMPUTES = (
    Recompute("full", "uniform", 1),
    Recompute("full", "block", 2),
    Recompute("selective", modules=("mlp", "core_attn")),
)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_recomputed_layers_give_their_adapters_the_same_gradients(
    checkpoints: Path, num_ranks: int
) -> None:
    run_on_ranks(_check_recomputed, num_ranks, checkpoints)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_drawn_adapters_change_nothing_and_do_not_know_the_layout(
    checkpoints: Path, num_ranks: int
) -> None:
    run_on_ranks(_check_drawn, num_ranks, checkpoints)


def test_dropout_leaves_out_a_share_of_the_input_and_nothing_in_eval_mode(
    checkpoints: Path,
) -> None:
    run_on_ranks(_check_dropout, 1, checkpoints)


def _check_gradients(checkpoints: Path, layouts: list[AxisDegrees]) -> None:
    for degrees in layouts:
        mesh = start_mesh(degrees)
        for name in FAMILIES:
            for targets in TARGETS:
                _assert_gradients(checkpoints, name, degrees, mesh, targets)
        for targets in (EVERY, ("q_a_proj", "kv_b_proj"), ("q_b_proj", "kv_a_proj_with_mqa")):
            _assert_gradients(checkpoints, LATENT, degrees, mesh, targets)


def _check_recomputed(checkpoints: Path) -> None:
    """The first layer too, whose input no weight before it makes differentiable."""
    size = torch.distributed.get_world_size()
    degrees = AxisDegrees(tensor=size, sequence=size > 1, data=1)
    mesh = start_mesh(degrees)
    for recompute in RECOMPUTES:
        _assert_gradients(checkpoints, "qwen2", degrees, mesh, PROJECTIONS, recompute)
        _assert_gradients(checkpoints, LATENT, degrees, mesh, EVERY, recompute)


def _assert_gradients(
    checkpoints: Path,
    name: str,
    degrees: AxisDegrees,
    mesh: Mesh,
    targets: tuple[str, ...],
    recompute: Recompute = NO_RECOMPUTE,
) -> None:
    plan = replace(_plan(name, degrees, targets), recompute=recompute)
    model = build_model(plan, degrees, mesh, trainable=True)
    load_weights([model], checkpoints / name, plan, mesh)
    reference = load_hf(name, checkpoints)
    factors = _factors(reference, plan.lora.targets)
    adapters = _adapters(model, mesh)
    num_factors = sum(1 + len(parts_of(target)) for target in plan.lora.targets)
    assert len(adapters) == num_factors * plan.shape.num_layers
    for key, (parameter, cut) in adapters.items():
        parameter.data.copy_(cut(factors[key.partition(":")[0]]))
    expected_weights = _merged(reference, factors)
    for key, weight in merged_tensors([model], plan, mesh):
        torch.testing.assert_close(weight.double(), expected_weights[key], rtol=1e-5, atol=1e-6)
    trainer = Trainer([model], CONSTANT_RATE, mesh, num_steps=1)
    share = _micro_batches()[mesh.data_rank :: mesh.data_size]
    loss = trainer.forward_backward(share, _megatron_loss)
    torch.distributed.all_reduce(loss)
    expected, gradients = _reference(reference, factors)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=OF_ROUNDING)
    norm = torch.stack(list(map(torch.linalg.vector_norm, gradients.values()))).norm()
    for key, (parameter, cut) in _adapters(model, mesh, of_gradients=True).items():
        whole = gradients[key.partition(":")[0]]
        error = float((parameter - cut(whole)).abs().max() / whole.abs().max())
        assert error < 1e-5, (name, degrees, targets, key, error)
    torch.testing.assert_close(trainer.step(), float(norm), rtol=1e-5, atol=0.0)


def _adapters(model: Any, mesh: Mesh, *, of_gradients: bool = False) -> dict[str, tuple[Any, Any]]:
    """Each factor, or its reduced gradient, under the name of its projection in the checkpoint, a B
    with ":" and its part of it, and what cuts this rank's share out of a whole one."""
    rank, size = mesh.tensor_rank, mesh.tensor_size
    found = {}
    for index, layer in enumerate(model.decoder.layers):
        for prefix, block, name, cut_a, cut_b in (
            ("self_attn", layer.self_attention, "linear_qkv", None, 0),
            ("self_attn", layer.self_attention, "linear_q_down_proj", None, None),
            ("self_attn", layer.self_attention, "linear_q_up_proj", None, 0),
            ("self_attn", layer.self_attention, "linear_kv_down_proj", None, None),
            ("self_attn", layer.self_attention, "linear_kv_up_proj", None, 0),
            ("self_attn", layer.self_attention, "linear_proj", 1, None),
            ("mlp", layer.mlp, "linear_fc1", None, 0),
            ("mlp", layer.mlp, "linear_fc2", 1, None),
        ):
            linear = getattr(block, name, None)
            if not hasattr(linear, "lora"):
                continue
            parts, factors = linear.lora._parts, linear.lora.b
            a = linear.lora.a.main_grad if of_gradients else linear.lora.a
            targets = dict.fromkeys(part.target for part in parts)
            for target, rows in zip(targets, a.split(RANK), strict=True):
                tensor = f"model.layers.{index}.{prefix}.{target}.weight"
                found[f"{tensor}.A"] = rows, _cutter(cut_a, rank, size)
                own, start = [part.name for part in parts if part.target == target], 0
                for part in own:
                    b = factors[part].main_grad if of_gradients else factors[part]
                    stop = start + len(b) * (1 if cut_b is None else size)
                    cut = _cutter(cut_b, rank, size, start, stop)
                    found[f"{tensor}.B:{part}"] = b, cut
                    start = stop
    return found


def _cutter(dim: int | None, rank: int, size: int, start: int = 0, stop: int | None = None) -> Any:
    """Of rows [start, stop) the rank's share."""

    def cut(whole: Tensor) -> Tensor:
        rows = whole[start:stop]
        return rows if dim is None else rows.chunk(size, dim)[rank]

    return cut


def _factors(reference: Any, targets: tuple[str, ...]) -> dict[str, Tensor]:
    """A [RANK, in] and B [out, RANK] of each target of each layer, at random."""
    factors = {}
    for name, weight in reference.named_parameters():
        if any(name.endswith(f"{target}.weight") for target in targets):
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            num_rows, num_columns = weight.shape
            for factor, size in (("A", (RANK, num_columns)), ("B", (num_rows, RANK))):
                values = 0.1 * torch.randn(size, generator=generator, dtype=torch.float64)
                factors[f"{name}.{factor}"] = values.requires_grad_()
    return factors


def _merged(model: Any, factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every weight, adapted ones as W + alpha / rank B A."""
    merged = {name: value.detach() for name, value in model.named_parameters()}
    for name in {key.rpartition(".")[0] for key in factors}:
        merged[name] = merged[name] + ALPHA / RANK * factors[f"{name}.B"] @ factors[f"{name}.A"]
    return merged


def _reference(model: Any, factors: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of all micro-batches and the gradient of every factor."""
    merged = _merged(model, factors)
    loss = torch.zeros((), dtype=torch.float64)
    for tokens_BS in _micro_batches():
        logits = torch.func.functional_call(model, merged, (tokens_BS,)).logits
        loss = loss + loss_of_logits(logits.flatten(0, 1))
    gradients = torch.autograd.grad(loss, list(factors.values()))
    return loss.detach(), dict(zip(factors, gradients, strict=True))


def _micro_batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, VOCAB_SIZE, (2, n), generator=generator) for n in (11, 24)]


def _megatron_loss(model: Any, tokens_BS: Tensor) -> Tensor:
    head_VH = output_head(model)
    every_token = torch.arange(tokens_BS.numel())
    logits_NV = response_hidden(model, tokens_BS, every_token) @ head_VH.t()
    return loss_of_logits(logits_NV, model.pg_collection.tp.rank() * len(head_VH))


def _check_drawn(checkpoints: Path) -> None:
    """Two draws in one layout are one; the sums of a cut A over its ranks are the whole one's."""
    size = torch.distributed.get_world_size()
    degrees = AxisDegrees(tensor=size, sequence=size > 1, data=1)
    mesh = start_mesh(degrees)
    tokens_BS = _micro_batches()[0]
    for name in (*FAMILIES, LATENT):
        plan = _plan(name, degrees, EVERY)
        model = build_model(plan, degrees, mesh, trainable=True)
        base_plan = plan_of(name, degrees.tensor)
        base = build_model(base_plan, degrees, mesh, trainable=False)
        for filled, filling in ((model, plan), (base, base_plan)):
            load_weights([filled], checkpoints / name, filling, mesh)
        draw_adapters([model], plan, mesh, seed=4)
        with torch.no_grad():
            assert torch.equal(hidden_states(model, tokens_BS), hidden_states(base, tokens_BS))
        for key, (factor, _) in _adapters(model, mesh).items():
            whole = _whole(key, factor, mesh)
            if ".B:" in key:
                assert not whole.any()
            else:
                bound = whole.shape[1] ** -0.5
                assert 0.8 * bound < float(whole.abs().max()) <= bound
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {
            n for n, _ in model.named_parameters() if is_adapter(n)
        }
        first = model.decoder.layers[0].mlp.linear_fc2.lora.a.detach()
        alone = torch.empty(RANK, plan.shape.ffn_hidden_size)
        bound = plan.shape.ffn_hidden_size**-0.5
        key = "4 decoder.layers.0.mlp.linear_fc2.lora.a"
        alone.uniform_(-bound, bound, generator=_generator(key))
        assert torch.equal(_whole("down_proj.weight.A", first, mesh), alone)


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(key.encode()))


def _whole(key: str, factor: Tensor, mesh: Mesh) -> Tensor:
    """A factor that the tensor axis cuts, put together."""
    dim = 1 if key.endswith(".A") else 0
    is_row = "o_proj" in key or "down_proj" in key
    if is_row != (dim == 1) or "_a_proj" in key:
        return factor.detach()
    pieces = [torch.empty_like(factor) for _ in range(mesh.tensor_size)]
    torch.distributed.all_gather(pieces, factor.detach().contiguous(), group=mesh.tensor_group)
    return torch.cat(pieces, dim)


def _check_dropout(checkpoints: Path) -> None:
    mesh = start_mesh(ONE)
    lora = LoraPlan(RANK, ALPHA, 0.25, PROJECTIONS, num_parameters=0)
    plan = plan_of("llama", 1, lora=lora)
    model = build_model(plan, ONE, mesh, trainable=True)
    for linear in (model.decoder.layers[0].mlp.linear_fc1, model.decoder.layers[0].mlp.linear_fc2):
        adapter, num_inputs = linear.lora, linear.weight.shape[1]
        adapter.a.data.zero_()
        adapter.a.data[:, 0] = 1.0
        rows = torch.ones(4000, 1, num_inputs)
        narrow = adapter._narrow(rows, is_cut=False) / (ALPHA / RANK)
        kept = narrow[narrow != 0.0]
        torch.testing.assert_close(kept, torch.full_like(kept, 4 / 3))
        assert 0.2 < float((narrow == 0.0).float().mean()) < 0.3
        adapter.eval()
        assert bool((adapter._narrow(rows, is_cut=False) == ALPHA / RANK).all())


def _plan(name: str, degrees: AxisDegrees, targets: tuple[str, ...]) -> ModelPlan:
    """With adapters of the family's projections that hold `targets`."""
    plan = plan_of(name, degrees.tensor, dtype=Dtype.FP32)
    own = projections_of(plan.shape)
    holding = tuple(name for name in own if not set(parts_of(name)).isdisjoint(targets))
    return replace(plan, lora=LoraPlan(RANK, ALPHA, 0.0, holding, num_parameters=0))
