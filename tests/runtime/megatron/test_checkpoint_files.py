"""Broken checkpoints are refused tensor by tensor, before anything is filled."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gkdplan.diagnostics import UserError
from gkdplan.runtime.megatron.checkpoint_files import Checkpoint
from gkdplan.runtime.megatron.hf_layout import Slice

SHAPES = {
    "model.embed_tokens.weight": (6, 2),
    "model.layers.0.mlp.down_proj.weight": (2, 4),
    "model.norm.weight": (2,),
}


def tensors() -> dict[str, torch.Tensor]:
    return {
        "model.embed_tokens.weight": torch.arange(12.0).view(6, 2),
        "model.layers.0.mlp.down_proj.weight": torch.zeros(2, 4),
        "model.layers.3.mlp.down_proj.weight": torch.arange(8.0).view(2, 4),
        "model.norm.weight": torch.ones(2),
        "lm_head.weight": torch.ones(6, 2),
    }


def refused(directory: Path) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as failure, Checkpoint(directory) as checkpoint:
        checkpoint.expect(SHAPES, sources=(3,))
    assert all(found.help for found in failure.value.diagnostics)
    return [(found.code, found.message) for found in failure.value.diagnostics]


def test_slices_are_read_by_the_models_layer_numbers_and_cut_at_the_end(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.expect(SHAPES, sources=(3,))
        columns = checkpoint.read(Slice("model.layers.0.mlp.down_proj.weight", 1, 2, 4))
        rows = checkpoint.read(Slice("model.embed_tokens.weight", 0, 4, 8))
        beyond = checkpoint.read(Slice("model.embed_tokens.weight", 0, 8, 16))
    assert columns.tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert rows.tolist() == [[8.0, 9.0], [10.0, 11.0]]
    assert beyond.shape == (0, 2)


def test_a_missing_tensor_another_shape_and_a_stranger_are_all_reported(tmp_path: Path) -> None:
    broken = tensors()
    broken.pop("model.norm.weight")
    broken["model.embed_tokens.weight"] = torch.zeros(5, 2)
    broken["model.layers.3.self_attn.q_proj.bias"] = torch.zeros(2)
    save_file(broken, tmp_path / "model.safetensors")
    assert refused(tmp_path) == [
        (
            "GK523",
            "`model.embed_tokens.weight` has shape [5, 2] in the checkpoint, the plan says [6, 2]",
        ),
        ("GK522", "the checkpoint lacks `model.norm.weight`"),
        (
            "GK524",
            "the checkpoint holds `model.layers.3.self_attn.q_proj.bias`, "
            "which the model has no place for",
        ),
    ]


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:-8])
    assert refused(tmp_path) == [("GK521", f"`{path}` cannot be read as safetensors")]


def test_a_file_that_the_index_names_is_missing(tmp_path: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    path = tmp_path / "model-00001-of-00002.safetensors"
    assert refused(tmp_path) == [("GK521", f"`{path}` cannot be read as safetensors")]
