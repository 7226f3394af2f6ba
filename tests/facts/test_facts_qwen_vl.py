"""Qwen2.5-VL as its config.json says it, beside the model that transformers builds from it."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from gkdplan.facts.config import read_shape
from gkdplan.facts.known import find_known
from gkdplan.families.tensors import expected_tensors
from gkdplan.vision import QwenVision, canonical_name

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 304,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
}
TOWER = {
    "depth": 3,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_heads": 2,
    "patch_size": 4,
    "window_size": 16,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
}
FLAT = {
    "model_type": "qwen2_5_vl",
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    **TEXT,
    "rope_theta": 1e6,
    "vision_config": TOWER,
    "image_token_id": 301,
}


def read(**changes):
    return read_shape({**FLAT, **changes}, "config.json")


@pytest.mark.parametrize("tied", [False, True])
def test_tensors_are_those_that_transformers_saves(tmp_path, tied):
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "tie_word_embeddings": tied},
        vision_config=TOWER,
        image_token_id=301,
        tie_word_embeddings=tied,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    shape, findings = read_shape(config.to_dict(), "config.json")
    assert findings == ()
    assert {canonical_name(shape.vision, name): tuple(t.shape) for name, t in saved.items()} == (
        expected_tensors(shape)
    )
    own = [name for name, _ in model.model.visual.named_parameters()]
    assert [name.removeprefix("visual.") for name in shape.vision.tensors()] == own
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.tied_embeddings is tied


def test_the_hubs_flat_config_reads_as_the_nested_one_of_transformers():
    nested = Qwen2_5_VLConfig(text_config=TEXT, vision_config=TOWER, image_token_id=301)
    shape, findings = read()
    assert findings == ()
    assert shape == read_shape(nested.to_dict(), "config.json")[0]
    assert shape.rope_theta == 1e6
    assert isinstance(shape.vision, QwenVision)
    assert shape.vision.rotary_sections == (1, 1, 2)
    assert shape.vision.full_layers == (1,)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"image_token_id": 304}, "GK104", "no row of the embedding"),
        ({"vision_config": {**TOWER, "num_heads": 3}}, "GK104", "not a multiple"),
        ({"vision_config": {**TOWER, "num_heads": 8}}, "GK104", "no multiple of 4"),
        ({"vision_config": {**TOWER, "window_size": 7}}, "GK104", "less than the 8 pixels"),
        ({"vision_config": {**TOWER, "rms_norm_eps": 1e-5}}, "GK105", "rms_norm_eps"),
        ({"vision_config": {**TOWER, "rope_parameters": {"rope_theta": 5}}}, "GK105", "rope_theta"),
        ({"vision_config": {**TOWER, "out_hidden_size": 33}}, "GK104", "not the decoder's"),
        ({"vision_config": {**TOWER, "hidden_act": "relu"}}, "GK105", "hidden_act"),
        ({"vision_config": {**TOWER, "fullatt_block_indexes": 1}}, "GK105", "fullatt"),
        ({"rope_scaling": {"mrope_section": [1, 1, 1]}}, "GK104", "3 pairs"),
        ({"rope_scaling": {"mrope_section": [1, 3]}}, "GK104", "a list of 3 numbers"),
        ({"rope_scaling": {"mrope_section": [1, 1.5, 1.5]}}, "GK105", "whole number"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [1, 1, 2]}}, "GK105", "yarn"),
        ({"rope_scaling": None}, "GK104", "mrope_section"),
        ({"text_config": {**TEXT, "model_type": "llama"}}, "GK105", "text_config"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "GK105", "auto_map"),
        ({"architectures": ["Qwen2VLForConditionalGeneration"]}, "GK102", "Qwen2VL"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(changes, code, words):
    shape, findings = read(**changes)
    assert shape is None
    assert any(f.code == code and words in f.message + "".join(f.notes) for f in findings)


@pytest.mark.parametrize("size", ["3B", "7B"])
def test_a_published_model_is_what_transformers_builds(size):
    known = find_known(f"Qwen/Qwen2.5-VL-{size}-Instruct")
    assert known is not None
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**known.config))
    model.tie_weights()
    assert sum(p.numel() for p in model.parameters()) == known.num_parameters
