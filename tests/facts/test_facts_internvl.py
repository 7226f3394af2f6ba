"""InternVL as its config.json says it, beside the model that transformers builds from it."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import InternVLConfig, InternVLForConditionalGeneration

from gkdplan.facts.config import read_shape
from gkdplan.facts.known import find_known
from gkdplan.families.tensors import expected_tensors
from gkdplan.vision import InternVision, canonical_name, name_on_disk

TEXT = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 304,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
}
TOWER = {
    "model_type": "internvl_vision",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_attention_heads": 2,
    "image_size": [16, 16],
    "patch_size": [4, 4],
    "attention_bias": True,
}
WHOLE = {
    "model_type": "internvl",
    "architectures": ["InternVLForConditionalGeneration"],
    "text_config": TEXT,
    "vision_config": TOWER,
    "image_token_id": 301,
    "image_seq_length": 4,
}
OF_6B = {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": False}


def read(**changes):
    return read_shape({**WHOLE, **changes}, "config.json")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("of_tower", [{}, OF_6B, {"use_mean_pooling": False}])
def test_tensors_are_those_that_transformers_saves(tmp_path, tied, of_tower):
    config = InternVLConfig(
        text_config=dict(TEXT),
        vision_config={**TOWER, **of_tower},
        image_token_id=301,
        image_seq_length=4,
        tie_word_embeddings=tied,
    )
    model = InternVLForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    shape, findings = read_shape(config.to_dict(), "config.json")
    assert findings == ()
    assert {canonical_name(shape.vision, name): tuple(t.shape) for name, t in saved.items()} == (
        expected_tensors(shape)
    )
    assert {name_on_disk(shape.vision, name) for name in expected_tensors(shape)} == saved.keys()
    parts = (("vision_tower", model.model.vision_tower),)
    parts += (("multi_modal_projector", model.model.multi_modal_projector),)
    own = [f"{part}.{name}" for part, module in parts for name, _ in module.named_parameters()]
    assert [*shape.vision.tensors()] == own
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.tied_embeddings is tied


def test_the_decoder_is_its_own_model_with_plain_positions():
    shape, findings = read()
    assert findings == ()
    assert (shape.family, shape.qkv_bias, shape.rope_theta) == ("qwen2", True, 1e6)
    assert shape.rope_scaling is None
    assert isinstance(shape.vision, InternVision)
    assert shape.vision.tokens_per_tile == 4


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"norm_type": "none"}, "GK105", "norm_type"),
        ({"hidden_act": "silu"}, "GK105", "hidden_act"),
        ({"image_size": [16, 20]}, "GK105", "squares"),
        ({"use_mask_token": True}, "GK105", "masked"),
        ({"projection_dropout": 0.1}, "GK105", "dropped"),
        ({"use_absolute_position_embeddings": False}, "GK105", "position"),
        ({"num_attention_heads": 3}, "GK104", "not a multiple"),
        ({"patch_size": 5}, "GK104", "3 patches wide"),
        ({"patch_size": 2}, "GK104", "`image_seq_length` = 4, and a tile has 16 tokens"),
        ({"image_size": "16"}, "GK104", "image_size"),
    ],
)
def test_a_tower_that_cannot_be_held_is_refused_by_name(changes, code, words):
    shape, findings = read(vision_config={**TOWER, **changes})
    assert shape is None
    assert any(f.code == code and words in f.message + "".join(f.notes) for f in findings)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"vision_feature_layer": -2}, "GK105", "last layer"),
        ({"vision_feature_select_strategy": "full"}, "GK105", "class token"),
        ({"projector_hidden_act": "silu"}, "GK105", "GELU"),
        ({"downsample_ratio": 0.3}, "GK105", "whole states"),
        ({"image_token_id": 304}, "GK104", "no row of the embedding"),
        ({"text_config": {**TEXT, "model_type": "mistral"}}, "GK105", "decoders of InternVL"),
        (
            {"text_config": {**TEXT, "rope_scaling": {"rope_type": "dynamic", "factor": "2"}}},
            "GK104",
            "factor",
        ),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(changes, code, words):
    shape, findings = read(**changes)
    assert shape is None
    assert any(f.code == code and words in f.message + "".join(f.notes) for f in findings)


@pytest.mark.parametrize("size", ["3-1B", "3-2B", "3-8B", "3_5-8B"])
def test_a_published_model_is_what_transformers_builds(size):
    suffix = "HF" if size.startswith("3_5") else "hf"
    known = find_known(f"OpenGVLab/InternVL{size}-{suffix}")
    assert known is not None
    tied = known.config["text_config"].get("tie_word_embeddings", False)
    with torch.device("meta"):
        config = InternVLConfig(**{"tie_word_embeddings": tied, **known.config})
        model = InternVLForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == known.num_parameters
