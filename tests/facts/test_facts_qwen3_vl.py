"""Qwen3-VL's config and tensors, as transformers writes and as this project reads them."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from gkdplan.facts.config import read_shape
from gkdplan.facts.known import find_known
from gkdplan.families.tensors import expected_tensors
from gkdplan.vision import Qwen3Vision, canonical_name, name_on_disk

ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1]}
TEXT = {
    "model_type": "qwen3_vl_text",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 304,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {**ROPE, "mrope_interleaved": True},
}
TOWER = {
    "depth": 3,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
    "num_position_embeddings": 25,
    "deepstack_visual_indexes": [0, 2],
}
WHOLE = {
    "model_type": "qwen3_vl",
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "text_config": TEXT,
    "vision_config": TOWER,
    "image_token_id": 301,
}


def read(**changes):
    return read_shape({**WHOLE, **changes}, "config.json")


@pytest.mark.parametrize("tied", [False, True])
def test_tensors_are_those_that_transformers_saves(tmp_path, tied):
    config = Qwen3VLConfig(
        text_config=TEXT, vision_config=TOWER, image_token_id=301, tie_word_embeddings=tied
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    shape, findings = read_shape(config.to_dict(), "config.json")
    assert findings == ()
    assert {canonical_name(shape.vision, name): tuple(t.shape) for name, t in saved.items()} == (
        expected_tensors(shape)
    )
    assert {name_on_disk(shape.vision, name) for name in expected_tensors(shape)} == saved.keys()
    own = [name for name, _ in model.model.visual.named_parameters()]
    assert [name.removeprefix("visual.") for name in shape.vision.tensors()] == own
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.tied_embeddings is tied


def test_the_decoder_is_qwen3s():
    shape, findings = read()
    assert findings == ()
    assert (shape.family, shape.qk_norm, shape.rope_theta) == ("qwen3", True, 5e6)
    assert isinstance(shape.vision, Qwen3Vision)
    assert shape.vision.rotary_sections == (2, 1, 1)
    assert shape.vision.deep_layers == (0, 2)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"deepstack_visual_indexes": [0, 3]}, "GK104", "no layers of the tower"),
        ({"deepstack_visual_indexes": [0, 0]}, "GK104", "no layers of the tower"),
        ({"deepstack_visual_indexes": [2, 0]}, "GK104", "do not rise"),
        ({"deepstack_visual_indexes": [0, 1, 2]}, "GK104", "speaks to 3 layers"),
        ({"deepstack_visual_indexes": 1}, "GK105", "deepstack_visual_indexes"),
        ({"num_position_embeddings": 24}, "GK104", "no square"),
        ({"hidden_act": "silu"}, "GK105", "hidden_act"),
        ({"out_hidden_size": 31}, "GK104", "not the decoder's"),
    ],
)
def test_a_tower_that_cannot_be_held_is_refused_by_name(changes, code, words):
    shape, findings = read(vision_config={**TOWER, **changes})
    assert shape is None
    assert any(f.code == code and words in f.message + "".join(f.notes) for f in findings)


@pytest.mark.parametrize("size", ["2B", "4B", "8B"])
def test_a_published_model_is_what_transformers_builds(size):
    known = find_known(f"Qwen/Qwen3-VL-{size}-Instruct")
    assert known is not None
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**known.config))
    model.tie_weights()
    assert sum(p.numel() for p in model.parameters()) == known.num_parameters


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_parameters": {**ROPE, "mrope_interleaved": False}}, "in turn"),
        ({"model_type": "qwen3"}, "Qwen3-VL's own"),
        ({"rope_parameters": {**ROPE, "rope_type": "yarn"}}, "unscaled"),
    ],
)
def test_a_decoder_that_cannot_be_held_is_refused_by_name(changes, words):
    shape, findings = read(text_config={**TEXT, **changes})
    assert shape is None
    assert any(words in "".join(f.notes) for f in findings)
