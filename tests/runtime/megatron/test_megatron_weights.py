"""Megatron models hold exactly the checkpoint, and compute what transformers computes.

Legend: B rows, S tokens, V the true vocabulary.
"""

from pathlib import Path

import torch
from gloo_ranks import run_on_ranks
from safetensors.torch import load_file
from tiny_models import TINY, hidden_states, load_hf, plan_of, start_mesh
from torch import Tensor
from transformers import AutoModelForCausalLM

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.megatron.forward import output_head
from gkdplan.runtime.megatron.model import build_model
from gkdplan.runtime.megatron.weights import (
    draw_weights,
    full_tensors,
    load_weights,
    save_student,
)
from gkdplan.vocab import Dtype

ONE = AxisDegrees(tensor=1, sequence=False, data=1)
TENSOR_2 = AxisDegrees(tensor=2, sequence=False, data=1)
TENSOR_2_SEQUENCE = AxisDegrees(tensor=2, sequence=True, data=1)
DATA_2 = AxisDegrees(tensor=1, sequence=False, data=2)


def test_one_process_equals_transformers(checkpoints: Path) -> None:
    run_on_ranks(_families_equal_transformers, 1, checkpoints, [ONE])


def test_two_processes_equal_transformers(checkpoints: Path) -> None:
    run_on_ranks(
        _families_equal_transformers, 2, checkpoints, [TENSOR_2, TENSOR_2_SEQUENCE, DATA_2]
    )


def test_drawn_weights_do_not_depend_on_the_layout() -> None:
    run_on_ranks(_draw_in_two_layouts, 2)


def test_a_saved_student_loads_in_transformers_with_the_same_logits(
    checkpoints: Path, tmp_path: Path
) -> None:
    run_on_ranks(_save_students, 2, checkpoints, tmp_path)


def _families_equal_transformers(checkpoints: Path, layouts: list[AxisDegrees]) -> None:
    for degrees in layouts:
        mesh = start_mesh(degrees)
        for name in TINY:
            plan = plan_of(name, degrees.tensor)
            model = build_model(plan, degrees, mesh, trainable=False)
            load_weights([model], checkpoints / name, plan, mesh)
            _assert_same_weights(dict(full_tensors([model], plan, mesh)), checkpoints / name)
            tokens_BS = _tokens(batch=2, length=61)
            reference = load_hf(name, checkpoints)(tokens_BS).logits
            _assert_close(_gathered_logits(model, tokens_BS), reference)


def _assert_same_weights(tensors: dict[str, Tensor], directory: Path) -> None:
    checkpoint = load_file(directory / "model.safetensors")
    assert tensors.keys() == checkpoint.keys()
    assert all(torch.equal(tensors[name], checkpoint[name]) for name in checkpoint)


def _draw_in_two_layouts() -> None:
    one, two = _drawn(DATA_2), _drawn(TENSOR_2_SEQUENCE)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    # 3 layers: 0.02, and 0.02 / sqrt(2 * 3) for what writes to the residual stream.
    assert abs(one["model.layers.0.mlp.up_proj.weight"].std() / 0.02 - 1) < 0.05
    assert abs(one["model.layers.0.mlp.down_proj.weight"].std() / 0.008165 - 1) < 0.05
    assert one["model.norm.weight"].eq(1).all()
    assert one["model.layers.1.self_attn.q_proj.bias"].eq(0).all()


def _drawn(degrees: AxisDegrees) -> dict[str, Tensor]:
    mesh = start_mesh(degrees)
    plan = plan_of("qwen2", degrees.tensor, init="random")
    model = build_model(plan, degrees, mesh, trainable=True)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    draw_weights([model], plan, mesh, seed=3)
    assert not any(parameter.isnan().any() for parameter in model.parameters())
    return dict(full_tensors([model], plan, mesh))


def _save_students(checkpoints: Path, directory: Path) -> None:
    degrees = TENSOR_2_SEQUENCE
    mesh = start_mesh(degrees)
    for name in TINY:
        for dtype, keep_layers, shard_bytes, num_files in (
            (Dtype.FP32, (0, 2), 5 * 10**9, 1),
            (Dtype.BF16, None, 20_000, None),
        ):
            plan = plan_of(name, degrees.tensor, dtype=dtype, keep_layers=keep_layers)
            model = build_model(plan, degrees, mesh, trainable=False)
            load_weights([model], checkpoints / name, plan, mesh)
            out = directory / f"{name}-{dtype}"
            save_student([model], plan, mesh, checkpoints / name, out, shard_bytes=shard_bytes)
            assert not list(directory.glob(".*"))
            files = list(out.glob("*.safetensors"))
            assert len(files) == num_files if num_files else len(files) > 3
            assert (out / "tokenizer.json").read_text() == "{}"
            student, report = AutoModelForCausalLM.from_pretrained(
                out, dtype="auto", attn_implementation="eager", output_loading_info=True
            )
            assert not any(report.values()), report
            _assert_is_the_kept_part(student, load_hf(name, checkpoints, student.dtype), plan)
            if dtype is Dtype.FP32:
                tokens_BS = _tokens(batch=2, length=40)
                _assert_close(_gathered_logits(model, tokens_BS), student(tokens_BS).logits)


def _assert_is_the_kept_part(student, source, plan) -> None:
    kept = plan.keep_layers or range(plan.shape.num_layers)
    source.model.layers = torch.nn.ModuleList([source.model.layers[index] for index in kept])
    assert student.config.num_hidden_layers == len(kept)
    expected, saved = source.state_dict(), student.state_dict()
    assert expected.keys() == saved.keys()
    assert all(torch.equal(expected[name], saved[name]) for name in expected)


def _tokens(batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 101, (batch, length), generator=generator)


@torch.no_grad()
def _gathered_logits(model, tokens_BS: Tensor) -> Tensor:
    """Logits [B, S, V] joined from every rank's share of the vocabulary."""
    shard = (hidden_states(model, tokens_BS) @ output_head(model).t()).contiguous()
    group = model.pg_collection.tp
    shards = [torch.empty_like(shard) for _ in range(group.size())]
    torch.distributed.all_gather(shards, shard, group=group)
    logits = torch.cat(shards, -1)
    assert not logits[..., 101:].any()
    return logits[..., :101]


def _assert_close(logits: Tensor, reference: Tensor) -> None:
    error = (logits.double() - reference.detach().double()).abs().max()
    assert error < 1e-5 * reference.abs().max(), float(error)
