"""Megatron models hold exactly the checkpoint, and compute what transformers computes.

Legend: B rows, S tokens, V the true vocabulary.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gloo_ranks import run_on_ranks
from megatron.core.models.gpt.gpt_model import GPTModel
from safetensors.torch import load_file
from tiny_models import TINY, WITH_EXPERTS, hidden_states, load_hf, plan_of, start_mesh
from tiny_training import DATA_2, ONE, TENSOR_2, TENSOR_2_SEQUENCE
from torch import Tensor
from transformers import AutoModelForCausalLM

from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runtime.loss import bound_
from gkdplan.runtime.megatron.forward import logit_softcap, output_head, stage_output
from gkdplan.runtime.megatron.full_tensors import full_tensors
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import build_chunks, build_model
from gkdplan.runtime.megatron.schedule import run_schedule
from gkdplan.runtime.megatron.weights import draw_weights, load_weights, save_student
from gkdplan.vocab import Dtype

DENSE = tuple(name for name in TINY if name not in WITH_EXPERTS)
PIPELINE_2 = replace(ONE, pipeline=2)
INTERLEAVED = replace(PIPELINE_2, virtual_pipeline=2)
EXPERT_2 = replace(DATA_2, expert=2)
OF_DENSE = (
    (TENSOR_2, ((3,),)),
    (TENSOR_2_SEQUENCE, ((3,),)),
    (DATA_2, ((3,),)),
    (PIPELINE_2, ((1,), (2,))),
)
OF_EXPERTS = (
    (EXPERT_2, ((4,),)),
    (replace(TENSOR_2_SEQUENCE, expert=2), ((4,),)),
    (replace(TENSOR_2, expert_tensor=2), ((4,),)),
    (PIPELINE_2, ((2,), (2,))),
    (INTERLEAVED, ((1, 1), (1, 1))),
)
OF_DENSE_ON_4 = (
    (replace(TENSOR_2_SEQUENCE, pipeline=2), ((2,), (1,))),
    (replace(DATA_2, pipeline=2), ((1,), (2,))),
)
OF_EXPERTS_ON_4 = (
    (replace(EXPERT_2, pipeline=2, virtual_pipeline=2), ((1, 1), (1, 1))),
    (AxisDegrees(tensor=2, sequence=True, data=2, expert=2), ((4,),)),
    (AxisDegrees(tensor=2, sequence=True, data=2, expert=2, expert_tensor=2), ((4,),)),
    (AxisDegrees(tensor=2, sequence=True, data=1, pipeline=2, expert=2), ((3,), (1,))),
)
Layouts = tuple[tuple[AxisDegrees, tuple[tuple[int, ...], ...]], ...]


def test_one_process_equals_transformers(checkpoints: Path) -> None:
    run_on_ranks(_equal_transformers, 1, checkpoints, DENSE, ((ONE, ((3,),)),))
    run_on_ranks(_equal_transformers, 1, checkpoints, WITH_EXPERTS, ((ONE, ((4,),)),))


def test_two_processes_equal_transformers(checkpoints: Path) -> None:
    run_on_ranks(_equal_transformers, 2, checkpoints, DENSE, OF_DENSE)
    run_on_ranks(_equal_transformers, 2, checkpoints, WITH_EXPERTS, OF_EXPERTS)


def test_four_processes_equal_transformers(checkpoints: Path) -> None:
    run_on_ranks(_equal_transformers, 4, checkpoints, ("llama-tied", "qwen2"), OF_DENSE_ON_4)
    run_on_ranks(_equal_transformers, 4, checkpoints, WITH_EXPERTS, OF_EXPERTS_ON_4)


def test_drawn_weights_do_not_depend_on_the_layout() -> None:
    run_on_ranks(_draw_in_every_layout, 2)


def test_a_saved_student_loads_in_transformers_with_the_same_logits(
    checkpoints: Path, tmp_path: Path
) -> None:
    run_on_ranks(_save_students, 2, checkpoints, tmp_path)


def test_files_are_the_same_bytes_from_every_layout(checkpoints: Path, tmp_path: Path) -> None:
    for names, alone, layouts in (
        (("llama-tied", "llama-one-kv-head", "qwen2"), (ONE, ((3,),)), OF_DENSE),
        (WITH_EXPERTS, (ONE, ((4,),)), OF_EXPERTS),
    ):
        run_on_ranks(_save_from, 1, checkpoints, names, (alone,), tmp_path / "one")
        run_on_ranks(_save_from, 2, checkpoints, names, layouts, tmp_path / "two")
        for name in names:
            expected = _files(tmp_path / "one" / f"{name}-0")
            assert len(expected) > 5
            for index in range(len(layouts)):
                assert _files(tmp_path / "two" / f"{name}-{index}") == expected, (name, index)


def _files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _save_from(
    checkpoints: Path, names: tuple[str, ...], layouts: Layouts, directory: Path
) -> None:
    for index, (degrees, stage_layers) in enumerate(layouts):
        mesh = start_mesh(degrees)
        for name in names:
            plan = plan_of(name, degrees.tensor, stage_layers=stage_layers)
            chunks = build_chunks(plan, degrees, mesh, trainable=True)
            load_weights(chunks, checkpoints / name, plan, mesh)
            out = directory / f"{name}-{index}"
            save_student(chunks, plan, mesh, checkpoints / name, out, shard_bytes=60_000)


def _equal_transformers(checkpoints: Path, names: tuple[str, ...], layouts: Layouts) -> None:
    tokens_BS = _tokens(batch=2, length=61)
    references = {name: load_hf(name, checkpoints)(tokens_BS).logits for name in names}
    for degrees, stage_layers in layouts:
        mesh = start_mesh(degrees)
        for name in names:
            plan = plan_of(name, degrees.tensor, stage_layers=stage_layers)
            chunks = build_chunks(plan, degrees, mesh, trainable=False)
            load_weights(chunks, checkpoints / name, plan, mesh)
            _assert_same_weights(dict(full_tensors(chunks, plan, mesh)), checkpoints / name)
            for logits in _gathered_logits(chunks, mesh, [tokens_BS, tokens_BS]):
                _assert_close(logits, references[name], name)


def _assert_same_weights(tensors: dict[str, Tensor], directory: Path) -> None:
    _assert_equal(tensors, load_file(directory / "model.safetensors"))


def _draw_in_every_layout() -> None:
    one = _drawn("qwen2", DATA_2, ((3,),))
    for degrees, stage_layers in OF_DENSE:
        _assert_equal(_drawn("qwen2", degrees, stage_layers), one)
    # 3 layers: 0.02, and 0.02 / sqrt(2 * 3) for what writes to the residual stream.
    assert abs(one["model.layers.0.mlp.up_proj.weight"].std() / 0.02 - 1) < 0.05
    assert abs(one["model.layers.0.mlp.down_proj.weight"].std() / 0.008165 - 1) < 0.05
    assert one["model.norm.weight"].eq(1).all()
    assert one["model.layers.1.self_attn.q_proj.bias"].eq(0).all()
    experts = _drawn("mixtral", DATA_2, ((4,),))
    for degrees, stage_layers in OF_EXPERTS:
        _assert_equal(_drawn("mixtral", degrees, stage_layers), experts)
    # 4 layers: 0.02 / sqrt(2 * 4).
    down = experts["model.layers.3.block_sparse_moe.experts.2.w2.weight"]
    assert abs(down.std() / 0.007071 - 1) < 0.05


def _assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def _drawn(
    name: str, degrees: AxisDegrees, stage_layers: tuple[tuple[int, ...], ...]
) -> dict[str, Tensor]:
    mesh = start_mesh(degrees)
    plan = plan_of(name, degrees.tensor, init="random", stage_layers=stage_layers)
    chunks = build_chunks(plan, degrees, mesh, trainable=True)
    parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]
    for parameter in parameters:
        parameter.data.fill_(float("nan"))
    draw_weights(chunks, plan, mesh, seed=3)
    assert not any(parameter.isnan().any() for parameter in parameters)
    return dict(full_tensors(chunks, plan, mesh))


def _save_students(checkpoints: Path, directory: Path) -> None:
    degrees = TENSOR_2_SEQUENCE
    mesh = start_mesh(degrees)
    for name in DENSE:
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
                (logits,) = _gathered_logits([model], mesh, [tokens_BS])
                _assert_close(logits, student(tokens_BS).logits, name)


def _assert_is_the_kept_part(student, source, plan) -> None:
    kept = plan.keep_layers or range(source.config.num_hidden_layers)
    source.model.layers = torch.nn.ModuleList([source.model.layers[index] for index in kept])
    assert student.config.num_hidden_layers == len(kept)
    expected, saved = source.state_dict(), student.state_dict()
    assert expected.keys() == saved.keys()
    assert all(torch.equal(expected[name], saved[name]) for name in expected)


def _tokens(batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 101, (batch, length), generator=generator)


@torch.no_grad()
def _gathered_logits(chunks: list[GPTModel], mesh: Mesh, batches: list[Tensor]) -> list[Tensor]:
    """Logits [B, S, V] of each batch, joined from every rank's share of the vocabulary; on stages
    other than the last there are none."""
    is_last = mesh.pipeline_rank == mesh.pipeline_size - 1
    shape = tuple(batches[0].shape)
    shards = run_schedule(chunks, batches, _forward_step, shape=shape, forward_only=True)
    assert len(shards) == (len(batches) if is_last else 0)
    return [_joined(shard.contiguous(), mesh) for shard in shards]


def _forward_step(batches: Iterator[Tensor], chunk: GPTModel) -> tuple[Tensor, Any]:
    tokens_BS = next(batches)
    if not chunk.post_process:
        return stage_output(chunk, tokens_BS), None
    logits = hidden_states(chunk, tokens_BS) @ output_head(chunk).t()
    bound_(logits, logit_softcap(chunk))
    return logits, lambda shard, non_loss_data: shard


def _joined(shard: Tensor, mesh: Mesh) -> Tensor:
    shards = [torch.empty_like(shard) for _ in range(mesh.tensor_size)]
    torch.distributed.all_gather(shards, shard, group=mesh.tensor_group)
    logits = torch.cat(shards, -1)
    assert not logits[..., 101:].any()
    return logits[..., :101]


def _assert_close(logits: Tensor, reference: Tensor, name: str) -> None:
    error = (logits.double() - reference.detach().double()).abs().max()
    assert error < 1e-5 * reference.abs().max(), f"{name}: {float(error)}"
