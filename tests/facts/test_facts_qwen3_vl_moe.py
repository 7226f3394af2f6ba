"""Qwen3-VL with experts, as transformers writes and as this project reads it."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_facts_qwen3_vl import TEXT, TOWER
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from gkdplan.facts.checkpoint import read_weights
from gkdplan.facts.config import read_shape
from gkdplan.facts.known import find_known
from gkdplan.families.packed import tensors_in_files
from gkdplan.vision import canonical_name

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
WHOLE = {
    "model_type": "qwen3_vl_moe",
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "text_config": {**TEXT, **EXPERTS, "model_type": "qwen3_vl_moe_text"},
    "vision_config": TOWER,
    "image_token_id": 301,
    "tie_word_embeddings": False,
}


@pytest.fixture
def saved(tmp_path):
    text = {**TEXT, **EXPERTS, "model_type": "qwen3_vl_moe_text"}
    config = Qwen3VLMoeConfig(
        text_config=text, vision_config=TOWER, image_token_id=301, tie_word_embeddings=False
    )
    Qwen3VLMoeForConditionalGeneration(config).save_pretrained(tmp_path)
    return tmp_path, *read_shape(config.to_dict(), "config.json")


def test_tensors_are_those_that_transformers_saves(saved):
    directory, shape, findings = saved
    assert findings == ()
    tensors = load_file(directory / "model.safetensors")
    assert {canonical_name(shape.vision, n): tuple(t.shape) for n, t in tensors.items()} == (
        tensors_in_files(shape)
    )
    assert shape.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert shape.moe.weights_sum_to_one


def test_experts_may_lie_the_other_way_round_and_no_tensor_else(saved):
    """As those of the hub, which transformers 4 saved."""
    directory, shape, _ = saved
    tensors = load_file(directory / "model.safetensors")
    turned = {
        name: tensor.transpose(-1, -2).contiguous() if ".mlp.experts." in name else tensor
        for name, tensor in tensors.items()
    }
    save_file(turned, directory / "model.safetensors")
    weights, findings = read_weights(str(directory), shape, "models/turned")
    assert findings == ()
    assert weights.num_parameters == shape.num_parameters
    name = "model.language_model.layers.0.mlp.gate.weight"
    save_file(turned | {name: turned[name].t().contiguous()}, directory / "model.safetensors")
    weights, (found,) = read_weights(str(directory), shape, "models/turned")
    assert (weights, found.code) == (None, "GK107")
    assert "layers.0.mlp.gate.weight" in found.message


def test_a_decoder_without_experts_is_refused_by_name():
    shape, findings = read_shape({**WHOLE, "text_config": TEXT}, "config.json")
    assert shape is None
    assert any("with experts" in "".join(finding.notes) for finding in findings)


def test_a_published_model_is_what_transformers_builds():
    known = find_known("Qwen/Qwen3-VL-30B-A3B-Instruct")
    assert known is not None
    with torch.device("meta"):
        model = Qwen3VLMoeForConditionalGeneration(Qwen3VLMoeConfig(**known.config))
    assert sum(p.numel() for p in model.parameters()) == known.num_parameters
