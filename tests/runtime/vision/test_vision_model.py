"""A model that sees is in Megatron what it is in transformers, whatever its layout.

Legend: B rows, S tokens, V the padded vocabulary.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks
from megatron.core.models.gpt.gpt_model import GPTModel
from safetensors.torch import load_file, save_file
from tiny_vision import (
    SIZES,
    load_reference,
    reference_inputs,
    save_image,
    save_internvl,
    save_llava,
    save_qwen3_vl,
    save_qwen3_vl_moe,
    save_qwen_vl,
)
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from gkdplan.facts.config import read_shape
from gkdplan.pictures import Picture, PictureLimits
from gkdplan.runplan.layout import AxisDegrees, Layout, RankClass
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.data.batch import MicroBatch, Row, collate, row_share
from gkdplan.runtime.megatron import mesh as mesh_module
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.forward import output_head, response_hidden, stage_output
from gkdplan.runtime.megatron.full_tensors import full_tensors
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.packed_experts import packed
from gkdplan.runtime.megatron.schedule import run_schedule
from gkdplan.runtime.megatron.weights import load_weights, save_student
from gkdplan.runtime.vision.images import Eyes, Shown, load_eyes
from gkdplan.vision import name_on_disk
from gkdplan.vocab import Dtype, Kernels, Tier

ONE = AxisDegrees(tensor=1, sequence=False, data=1)
TENSOR_2 = replace(ONE, tensor=2)
TENSOR_2_WITH_SEQUENCE = replace(TENSOR_2, sequence=True)
LAYOUTS = (
    (TENSOR_2, ((2,),)),
    (TENSOR_2_WITH_SEQUENCE, ((2,),)),
    (replace(ONE, pipeline=2), ((1,), (1,))),
    (replace(ONE, context=2), ((2,),)),
)
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "full": {"strategy": "full", "feature_layer": -1, "bias": False},
    "qwen2-tied": {"decoder": Qwen2Config, "tied": True},
    "qwen-vl": {"save": save_qwen_vl},
    "qwen3-vl": {"save": save_qwen3_vl, "deep_layers": (0, 2)},
    "qwen3-vl-tied": {"save": save_qwen3_vl, "tied": True, "deep_layers": (1,)},
    "qwen3-vl-moe": {"save": save_qwen3_vl_moe, "deep_layers": (1,)},
    "internvl": {"save": save_internvl},
    "internvl-6b": {
        "save": save_internvl,
        "decoder": LlamaConfig,
        "tower": {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": False},
    },
    "internvl-tied": {
        "save": save_internvl,
        "decoder": Qwen3Config,
        "tied": True,
        "tower": {"use_mean_pooling": False},
    },
    "qwen-vl-tied": {"save": save_qwen_vl, "tied": True, "hidden": 48, "sections": (3, 2, 1)},
}
SPREAD = ("default", "qwen-vl", "qwen3-vl-tied", "internvl", "qwen3-vl-moe")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("seeing")
    for name, kind in KINDS.items():
        changes = dict(kind)
        changes.pop("save", save_llava)(home / name, seed=5, **changes)
    for seed, size in enumerate(SIZES):
        save_image(home / f"{seed}.png", seed, size)
    return home


def test_one_process_equals_transformers(seeing: Path) -> None:
    run_on_ranks(_equal_transformers, 1, seeing, tuple(KINDS), ((ONE, ((2,),)),))


def test_two_processes_equal_transformers(seeing: Path) -> None:
    run_on_ranks(_equal_transformers, 2, seeing, SPREAD, LAYOUTS)


def test_a_saved_student_is_the_same_bytes_and_loads_in_transformers(
    seeing: Path, tmp_path: Path
) -> None:
    for name in ("default", "qwen-vl", "qwen-vl-tied", "qwen3-vl", "internvl", "qwen3-vl-moe"):
        run_on_ranks(_save, 1, seeing / name, tmp_path / name, ((ONE, ((2,),)),))
        run_on_ranks(_save, 2, seeing / name, tmp_path / name, LAYOUTS)


def test_a_student_of_some_layers_keeps_its_eyes(seeing: Path, tmp_path: Path) -> None:
    for name in ("default", "qwen-vl", "qwen3-vl-tied", "internvl-tied", "qwen3-vl-moe"):
        run_on_ranks(_save_last_layer, 1, seeing / name, tmp_path / name)


def test_names_of_earlier_checkpoints_are_the_same_weights(seeing: Path, tmp_path: Path) -> None:
    """Those of the hub wrap CLIP's tensors once more."""
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        (earlier / name).write_bytes((seeing / "default" / name).read_bytes())
    tensors = load_file(seeing / "default" / "model.safetensors")
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model."): tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, earlier / "model.safetensors", metadata={"format": "pt"})
    run_on_ranks(_hold_the_weights_of, 1, earlier, seeing / "default")


def test_experts_that_lie_transposed_are_the_same_weights_and_stay_so(
    seeing: Path, tmp_path: Path
) -> None:
    """Those of the hub, which transformers 4 saved."""
    hub = tmp_path / "hub"
    shutil.copytree(seeing / "qwen3-vl-moe", hub)
    tensors = load_file(hub / "model.safetensors")
    turned = {
        name: tensor.transpose(1, 2).contiguous() if ".mlp.experts." in name else tensor
        for name, tensor in tensors.items()
    }
    save_file(turned, hub / "model.safetensors", metadata={"format": "pt"})
    run_on_ranks(_hold_the_weights_of, 1, hub, seeing / "qwen3-vl-moe")
    run_on_ranks(_save, 2, hub, tmp_path / "saved", ((TENSOR_2_WITH_SEQUENCE, ((2,),)),))


def _hold_the_weights_of(directory: Path, other: Path) -> None:
    mesh, plan = _start(ONE), _plan(directory, ONE, ((2,),))
    chunks = build_chunks(plan, ONE, mesh, trainable=False)
    load_weights(chunks, directory, plan, mesh)
    _assert_same_weights(chunks, plan, mesh, other)


def _equal_transformers(home: Path, names: tuple[str, ...], layouts: Any) -> None:
    for name in names:
        vision = _plan(home / name, ONE, ((2,),)).shape.vision
        eyes = load_eyes(home / name, vision, PictureLimits())
        rows = _rows(home, eyes)
        reference = load_reference(home / name, dtype=torch.float64, attn_implementation="eager")
        expected = [
            _reference_logits(reference, home / name, row, vision.image_token_id) for row in rows
        ]
        for degrees, stage_layers in layouts:
            mesh, plan = _start(degrees), _plan(home / name, degrees, stage_layers)
            chunks = build_chunks(plan, degrees, mesh, trainable=False)
            load_weights(chunks, home / name, plan, mesh)
            _assert_same_weights(chunks, plan, mesh, home / name)
            for found, logits in zip(
                _logits(chunks, rows, eyes, plan, mesh, degrees), expected, strict=False
            ):
                error = (found.double() - logits).abs().max()
                assert error < 1e-5 * logits.abs().max(), (name, degrees, float(error))


def _rows(home: Path, eyes: Eyes) -> list[Row]:
    """Two images, none, one; every token but the first of a row is a response, or the prompt's."""
    pictures = [Picture(str(home / f"{seed}.png")) for seed in range(3)]
    shown = [eyes.measured(Shown(picture, "rows.jsonl:1", "")) for picture in pictures]
    images = [[eyes.shape.image_token_id] * one.num_tokens for one in shown]
    return [
        Row([5, *images[0], 7, *images[1]], [9, 8, 7, 6], tuple(shown[:2])),
        Row([5, 6, 7], [9, 8, 7, 6, 11, 12]),
        Row([17, *images[2], 4, 3], [2, 9], tuple(shown[2:])),
    ]


def _reference_logits(model: Any, directory: Path, row: Row, image_token: int) -> torch.Tensor:
    """Of the tokens that predict the response, by transformers alone."""
    tokens, pictures = [*row.prompt, *row.response], [one.picture.path for one in row.shown]
    with torch.no_grad():
        logits = model(**reference_inputs(directory, tokens, pictures, image_token)).logits[0]
    return logits[len(row.prompt) - 1 : -1]


@torch.no_grad()
def _logits(
    chunks: list[GPTModel],
    rows: list[Row],
    eyes: Eyes,
    plan: ModelPlan,
    mesh: Mesh,
    degrees: AxisDegrees,
) -> list[torch.Tensor]:
    """Of each row's predicting tokens, on the last stage, joined over the tensor axis and, where
    rows are shared, over the context axis: text-only rows are among the others in one batch."""
    eyes = eyes if mesh.pipeline_rank == 0 else eyes.closed
    share = row_share(degrees, mesh.context_rank)
    batch = collate(rows, 0, share, eyes=eyes)
    size = tuple(batch.tokens_BS.shape)
    found = run_schedule(chunks, [batch, batch], _forward_step, shape=size, forward_only=True)
    if not found:
        return []
    shares = [torch.empty_like(found[0]) for _ in range(mesh.tensor_size)]
    torch.distributed.all_gather(shares, found[0].contiguous(), group=mesh.tensor_group)
    logits_NV = torch.cat(shares, -1)[:, : plan.shape.vocab_size]
    if degrees.context > 1:
        logits_NV = _joined_over_context(logits_NV, rows, degrees, mesh)
    return [*logits_NV.split([len(row.response) for row in rows])]


def _joined_over_context(
    mine_NV: torch.Tensor, rows: list[Row], degrees: AxisDegrees, mesh: Mesh
) -> torch.Tensor:
    from gkdplan.runtime.data.deal import Deal

    numbers = Deal(degrees, [rows]).response_tokens(0)
    whole = mine_NV.new_zeros(sum(len(row.response) for row in rows), mine_NV.size(1))
    whole[numbers[mesh.context_rank]] = mine_NV
    torch.distributed.all_reduce(whole, group=mesh.groups.cp)
    return whole


def _forward_step(batches: Iterator[MicroBatch], chunk: GPTModel) -> tuple[torch.Tensor, Any]:
    batch = next(batches)
    if not chunk.post_process:
        return stage_output(chunk, batch.tokens_BS, sight=batch.sight), None
    hidden = response_hidden(chunk, batch.tokens_BS, batch.predict_N, sight=batch.sight)
    return hidden @ output_head(chunk).t(), lambda logits, non_loss_data: logits


def _save(source: Path, out: Path, layouts: Any) -> None:
    for number, (degrees, stage_layers) in enumerate(layouts):
        mesh, plan = _start(degrees), _plan(source, degrees, stage_layers)
        chunks = build_chunks(plan, degrees, mesh, trainable=True)
        load_weights(chunks, source, plan, mesh)
        saved = out / f"{torch.distributed.get_world_size()}-{number}"
        save_student(chunks, plan, mesh, source, saved)
        original = load_file(source / "model.safetensors")
        written = load_file(saved / "model.safetensors")
        assert original.keys() == written.keys()
        assert all(torch.equal(original[name], written[name]) for name in original)
        model, report = load_reference(saved, output_loading_info=True)
        assert not any(report.values()), report
        assert model.config.text_config.num_hidden_layers == 2
        load_eyes(saved, plan.shape.vision, PictureLimits())


def _save_last_layer(source: Path, out: Path) -> None:
    mesh, plan = _start(ONE), _plan(source, ONE, ((1,),))
    plan = replace(plan, shape=plan.shape.keeping((1,)), keep_layers=(1,))
    chunks = build_chunks(plan, ONE, mesh, trainable=True)
    load_weights(chunks, source, plan, mesh)
    save_student(chunks, plan, mesh, source, out)
    model, report = load_reference(out, output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.text_config.num_hidden_layers == 1
    whole = load_reference(source).state_dict()
    for name, tensor in model.state_dict().items():
        of_decoder = name.replace("language_model.layers.0.", "language_model.layers.1.")
        assert torch.equal(tensor, whole[of_decoder]), name


def _assert_same_weights(chunks: Any, plan: ModelPlan, mesh: Mesh, directory: Path) -> None:
    expected = load_file(directory / "model.safetensors")
    in_files = packed(full_tensors(chunks, plan, mesh), plan.shape, transposed=False)
    found = {name_on_disk(plan.shape.vision, name): tensor for name, tensor in in_files}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def _plan(directory: Path, degrees: AxisDegrees, stage_layers: Any) -> ModelPlan:
    shape, findings = read_shape(json.loads((directory / "config.json").read_text()), "config")
    assert shape is not None, findings
    assert shape.vision is not None
    return ModelPlan(
        model=str(directory),
        revision=None,
        family=shape.family,
        num_parameters=shape.num_parameters,
        shape=shape,
        dtype=Dtype.FP32,
        padded_vocab_size=384 if degrees.tensor == 1 else 512,
        init="pretrained",
        keep_layers=None,
        offload=Tier.DEVICE,
        stage_layers=stage_layers,
    )


def _start(degrees: AxisDegrees) -> Mesh:
    backend = torch.distributed.get_backend()
    platform.prepare(backend)
    mesh_module.close_mesh()
    size = torch.distributed.get_world_size()
    everyone = RankClass(ranks=((0, size),), stage=0)
    layout = Layout("cpu", backend, Kernels.TORCH, 1, size, size, degrees, degrees, (everyone,))
    return mesh_module.init_mesh(layout, 7)
